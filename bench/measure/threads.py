"""How many threads torch computes on: one for many small operations in a row, a known number while times are taken."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the context, torch computes on one thread, for work that is made of many small operations.

    More would gain little, and where something else runs beside them they spend their time waiting for each other:
    a pass of scoring `dates` took 46 s on two threads and 3.6 s on one, on two cores of which one was busy.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Within the context torch computes on so many threads, so that times taken there belong to that number.

    Raises:
        RuntimeError: something within has changed the number and not changed it back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
        if (now := torch.get_num_threads()) != threads:
            raise RuntimeError(
                f"torch computes on {now} threads where a case began on {threads}, so its times belong to neither; "
                "call torch.set_num_threads before the run, or set it back"
            )
    finally:
        torch.set_num_threads(before)
