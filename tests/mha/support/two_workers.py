"""A dask cluster of two worker processes on loopback."""

from typing import Any


def two_workers() -> Any:
    """The `distributed.LocalCluster`, a context manager."""
    import distributed

    return distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
    )
