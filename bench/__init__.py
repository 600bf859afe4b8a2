"""The suite: reference tasks, and benchmarks that run under pytest-benchmark. Imports `mha`."""
