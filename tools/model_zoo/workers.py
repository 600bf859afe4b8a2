"""Many trials in parallel processes, any of which may be killed: its name is reported, and the others go on."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

Row = dict[str, Any]
Trial = Callable[[str], Row]


def rows_of(trial: Trial, names: Iterable[str], jobs: int, start: Callable[[], None] | None = None) -> Iterator[Row]:
    """Yield `trial(name)` for each name, as they are ready; "crashed" is the status where that killed its process.

    When a worker dies, its pool can't tell which trial did it: those that were under way are repeated one by one.

    Args:
        trial, start: importable functions; `start` is called first in each process.
    """
    waiting = deque(names)
    while waiting:
        suspects = yield from _in_parallel(trial, waiting, jobs, start)
        for name in suspects:
            yield _alone(trial, name, start)


def _in_parallel(
    trial: Trial, waiting: deque[str], jobs: int, start: Callable[[], None] | None
) -> Generator[Row, None, list[str]]:
    """Yield rows until no name waits or a worker dies; return the names that were under way when it died."""
    running: dict[Future[Row], str] = {}
    with _pool(jobs, start) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    future = pool.submit(trial, waiting[0])  # a broken pool leaves it waiting
                    running[future] = waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    row = future.result()
                    del running[future]
                    yield row
        except BrokenProcessPool:
            return list(running.values())
    return []


def _alone(trial: Trial, name: str, start: Callable[[], None] | None) -> Row:
    with _pool(1, start) as pool:
        try:
            return pool.submit(trial, name).result()
        except BrokenProcessPool:
            return {"type": name, "status": "crashed", "reason": "its process was killed: out of memory?"}


def _pool(jobs: int, start: Callable[[], None] | None) -> ProcessPoolExecutor:
    # Workers are never replaced in time (max_tasks_per_child): with spawn that hangs on Python 3.11.
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=start)
