"""The pages that show what a benchmark run measured: reads run directories, draws figures, writes a site.

Knows `mha` and `bench` only through the files they leave.
"""
