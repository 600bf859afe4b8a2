"""Many small operations in a row, and how many threads to run them on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the context, torch computes on one thread, for work that is made of many small operations.

    More would gain little, and where something else runs beside them they spend their time waiting for each other:
    a pass of scoring `dates` took 46 s on two threads and 3.6 s on one, on two cores of which one was busy.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
