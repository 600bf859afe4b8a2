"""Cases done by several processes, one thread each; whatever is finished is on disk at once."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench.importance.cases import ImportanceCase, run
from bench.importance.records import FAILED, OK, write
from bench.importance.settings import ImportanceSettings
from bench.measure.threads import one_thread

Outcome = Mapping[str, Any]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}  # bars of several trainings would overwrite each other


def do(directory: Path, case: ImportanceCase, settings: ImportanceSettings) -> Outcome:
    """Do one case, write its record and return it; an exception in the case is recorded, and not raised."""
    identity = {"id": case.id, "subject": case.subject, "seed": case.seed, "what": case.what, "detail": case.detail}
    start, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with one_thread():
                outcome = {"status": OK, "error": None, **run(case, settings)}
        except Exception:
            outcome = {"status": FAILED, "error": traceback.format_exc()}
    texts = list(dict.fromkeys(f"{warning.category.__name__}: {warning.message}" for warning in caught))
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    record = {**identity, **outcome, "warnings": texts, **took}
    write(directory, record)
    return record


def do_all(
    directory: Path,
    cases: Sequence[ImportanceCase],
    settings: ImportanceSettings,
    jobs: int,
    done: Callable[[ImportanceCase, Outcome], None],
) -> None:
    """Do all cases in their order: one by one in this process if `jobs` is 1, else in `jobs` worker processes.

    The case of a worker that dies is recorded as failed, and another worker takes its place.

    Args:
        directory: of the run, where each case's record is written.
        done: called in this process after each case, with the case and a mapping that has its `status` and `error`.
    """
    if jobs == 1:
        for case in cases:
            done(case, do(directory, case, settings))
        return
    waiting = iter(cases)
    with _team(directory, settings) as team:
        for _ in range(min(jobs, len(cases))):
            team.hire(next(waiting))
        while team.busy:
            case, outcome = team.next_done()
            done(case, outcome)
            if (following := next(waiting, None)) is not None:
                team.give(following)


@dataclass
class _Team:
    """The worker processes; each has a pipe, over which it gets cases and says what became of them.

    Attributes:
        processes: pipe -> the worker at its other end.
        busy: pipe -> the case that its worker is doing.
        idle: the pipes whose workers have nothing to do.
    """

    directory: Path
    settings: ImportanceSettings
    processes: dict[Connection, BaseProcess] = field(default_factory=dict)
    busy: dict[Connection, ImportanceCase] = field(default_factory=dict)
    idle: list[Connection] = field(default_factory=list)

    def hire(self, case: ImportanceCase) -> None:
        """Start a worker, and give it its first case."""
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.directory, self.settings), daemon=True)
        with _environment(ONE_THREAD):
            process.start()
        theirs.close()
        self.processes[mine] = process
        self.idle.append(mine)
        self.give(case)

    def give(self, case: ImportanceCase) -> None:
        """Give a case to an idle worker, or to a new one if there is none."""
        if not self.idle:
            self.hire(case)
            return
        pipe = self.idle.pop()
        pipe.send(case)
        self.busy[pipe] = case

    def next_done(self) -> tuple[ImportanceCase, Outcome]:
        """Wait until any case is finished or its worker has died; returns the case and its outcome.

        The outcome is a mapping with `status` and `error`.

        The case of a worker that has died is recorded here as failed.
        """
        pipe = next(iter(wait(list(self.busy))))
        assert isinstance(pipe, Connection)
        case = self.busy.pop(pipe)
        try:
            outcome = pipe.recv()
            self.idle.append(pipe)
        except (EOFError, ConnectionResetError):
            process = self.processes.pop(pipe)
            process.join()
            error = f"the process that worked on it ended with code {process.exitcode}; was there enough memory?"
            outcome = {"status": FAILED, "error": error}
            identity = {"id": case.id, "subject": case.subject, "seed": case.seed, "what": case.what}
            write(self.directory, {**identity, "detail": case.detail, **outcome})
        return case, outcome


@contextmanager
def _team(directory: Path, settings: ImportanceSettings) -> Iterator[_Team]:
    """Yield a team without workers; those hired within the context are stopped at its end, also amid a case."""
    team = _Team(directory, settings)
    try:
        yield team
    finally:
        for pipe, process in team.processes.items():
            pipe.close()
            if pipe in team.busy:
                process.terminate()  # nothing is half written: files are renamed when whole
            process.join()


def _work(pipe: Connection, directory: Path, settings: ImportanceSettings) -> None:
    """What a worker runs: it does the cases that come over the pipe, until that is closed or its other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own, of processes, would be left behind by one that is stopped
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        record = do(directory, case, settings)
        pipe.send({"status": record["status"], "error": record["error"]})


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within the context these environment variables are set; afterwards they are as they were before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
