"""python -m bench.runtimes: pruned, quantised, or both, in each runtime that models are deployed to."""
