"""A sweep on dask.distributed: each case in a process of its own on some worker, one writer of the run directory."""
