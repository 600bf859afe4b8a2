"""Measures one round: starts fresh processes of each arm, and has them sample every benchmark in turns."""

import json
import os
import random
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from bench.regress.errors import GateError
from bench.regress.workers import Arm, Worker

CONTROL = "bench/regress/bench_control.py"
CONTROL_NAME = f"{CONTROL}::test_control"
PROCESSES = 2  # of each arm
SAMPLE_SECONDS = 0.002  # that the calls of one sample take together, about
FEWEST = 8  # samples of a process, however long they take
MOST = 200


class GateRound(NamedTuple):
    """What one round has measured.

    Attributes:
        seconds: benchmark -> process (arm-number) -> seconds of a call in each turn; the same turns in all processes.
        errors: arm -> benchmark -> what went wrong; where a file can't be read, "" stands for the benchmark.
        skipped: arm -> benchmark, or a whole file of them -> why it is skipped.
        spent: benchmark -> the seconds it took; under "" those of the rest, such as starting and ending processes.
    """

    seconds: dict[str, dict[str, list[float]]]
    errors: dict[str, dict[str, str]]
    skipped: dict[str, dict[str, str]]
    spent: dict[str, float]


def measure_round(
    arms: Sequence[Arm],
    files: Sequence[str],
    folder: Path,
    *,
    seconds: float,
    seed: int,
    threads: int = 1,
    only: Iterable[str] | None = None,
) -> GateRound:
    """Measure a round: all benchmarks, in random order, in two fresh processes of each arm.

    The order of the processes within a benchmark is balanced, and drawn anew for every two turns (`two_turns`).

    Args:
        files: the files of the benchmarks, relative to each arm's checkout.
        folder: where pytest-benchmark's JSON files go, ARM-K.json.
        seconds: of sampling for each benchmark, all processes together.
        seed: of the random orders.
        threads: how many torch uses. With one, all processes run on the same core, since cores differ.
        only: the benchmarks to time, beside the control, which always is; default all.

    Raises:
        GateError: a process ended early, or says nothing any more.
    """
    chance, began = random.Random(seed), time.perf_counter()
    core = random.Random(seed).choice(_cores()) if threads == 1 and _cores() else None
    spent: dict[str, float] = {}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(arm, number, [*files, CONTROL], folder / f"{arm.name}-{number}.json", threads))
            for number in range(PROCESSES)
            for arm in chance.sample(arms, len(arms))
        ]
        for worker in workers:
            worker.wait_until_collected()
        if core is not None:
            for worker in workers:
                worker.bind(core)
        names = sorted({name for worker in workers for name in worker.collected})
        if only is not None:
            wanted = {*only, CONTROL_NAME}
            names = [name for name in names if name in wanted]
        chance.shuffle(names)
        for name, following in zip(names, [*names[1:], None], strict=True):
            start = time.perf_counter()
            _take_turns(workers, name, following, seconds, chance)
            spent[name] = time.perf_counter() - start
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.wait()
    documents = {worker: document_of(folder / f"{worker.arm.name}-{worker.number}.json") for worker in workers}
    errors: dict[str, dict[str, str]] = {arm.name: {} for arm in arms}
    skipped: dict[str, dict[str, str]] = {arm.name: {} for arm in arms}
    for worker in workers:
        errors[worker.arm.name] |= worker.errors
        skipped[worker.arm.name] |= worker.skipped
    spent[""] = time.perf_counter() - began - sum(spent.values())
    return GateRound(_by_benchmark(documents), errors, skipped, spent)


class Apart(NamedTuple):
    """What a process leaves that ran its benchmarks by itself, without turns.

    Attributes:
        document: pytest-benchmark's report.
        errors: benchmark -> what went wrong; where a file can't be read, "" stands for the benchmark.
        skipped: benchmark, or a whole file of them -> why it is skipped.
        spent: as in `GateRound`.
    """

    document: dict[str, Any]
    errors: dict[str, str]
    skipped: dict[str, str]
    spent: dict[str, float]


def run_apart(arm: Arm, file: str, threads: int, only: Iterable[str] | None = None) -> Apart:
    """Run the benchmarks of a file in a fresh process, without turns: each samples as it does under pytest-benchmark.

    Args:
        threads: how many torch uses.
        only: the benchmarks to run; default all.

    Raises:
        GateError: the process ended early, or says nothing any more.
    """
    began, spent = time.perf_counter(), dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:
        report = Path(folder, "report.json")
        with Worker(arm, 0, [file], report, threads, as_they_are=True) as worker:
            worker.wait_until_collected()
            names = [name for name in worker.collected if only is None or name in only]
            for name, following in zip(names, [*names[1:], None], strict=False):
                start = time.perf_counter()
                worker.begin(name, following)
                spent[name] = time.perf_counter() - start
            worker.stop()
            worker.wait()
        document = document_of(report)
    spent[""] = time.perf_counter() - began - sum(spent.values())
    return Apart(document, worker.errors, worker.skipped, spent)


def _take_turns(
    workers: Sequence[Worker], name: str, following: str | None, seconds: float, chance: random.Random
) -> None:
    """Sample the benchmark `name` in turns in all processes that have it, until the time is up or one has failed.

    Args:
        following: the benchmark that comes next, if any.
        seconds: of sampling, all processes together; each takes at least `FEWEST` samples and about `MOST` at most.
        chance: draws the orders of the turns.
    """
    there = [worker for worker in workers if name in worker.collected]
    nexts = {worker: following if following in worker.collected else None for worker in there}
    lasts = {worker: worker.begin(name, nexts[worker]) for worker in there}
    ready = [worker for worker in there if lasts[worker] is not None]
    if not ready:
        return
    calls = max(1, round(SAMPLE_SECONDS / max(last for last in lasts.values() if last is not None)))
    end, taken = time.perf_counter() + seconds, 0
    failed: list[Worker] = []
    last: Worker | None = None
    while not failed and (taken < FEWEST or (time.perf_counter() < end and taken < MOST)):
        for turn in two_turns(ready, last, chance):
            failed = failed or [worker for worker in turn if not worker.sample(calls)]
            last = turn[-1]
            taken += 1
    for worker in ready:
        if worker not in failed:
            worker.end()


def two_turns(workers: Sequence[Worker], last: Worker | None, chance: random.Random) -> Iterator[list[Worker]]:
    """Yield the order of the processes in each of two turns: arms a, b, b, a, then b, a, a, b, which favours none.

    Which arm is a, and which of its processes comes first, is drawn. No process has two samples in a row, the second of
    which would find its caches warm.

    Args:
        workers: the processes, two of each arm.
        last: the process that took the last sample before.
    """
    arms = [[each for each in workers if each.arm.name == name] for name in sorted({each.arm.name for each in workers})]
    for two in arms:
        chance.shuffle(two)
    chance.shuffle(arms)
    if arms[0][0] is last:
        arms[0].reverse()
    if [len(two) for two in arms] == [PROCESSES, PROCESSES]:
        (a, other_a), (b, other_b) = arms
        yield [a, b, other_b, other_a]
        yield [b, a, other_a, other_b]
    else:  # of a benchmark that not every process has
        yield from repeat([worker for two in arms for worker in two], 2)


def _by_benchmark(documents: Mapping[Worker, Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Benchmark -> process (arm-number) -> seconds of a call in each turn, from the reports of the processes.

    What failed or was skipped in a process is left out for that process.
    """
    samples: dict[str, dict[str, list[float]]] = {}
    for worker, document in documents.items():
        for entry in document["benchmarks"]:
            name = entry["fullname"]
            if name not in worker.errors.keys() | worker.skipped.keys():
                samples.setdefault(name, {})[f"{worker.arm.name}-{worker.number}"] = entry["stats"]["data"]
    return samples


def _cores() -> list[int]:
    """The numbers of the cores that processes may be bound to; none where the system can't bind them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def document_of(path: Path) -> dict[str, Any]:
    """Read pytest-benchmark's report; an empty one where nothing was timed.

    Raises:
        GateError: the file is cut off.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # nothing was timed in it
        return {"benchmarks": []}
    except ValueError as error:
        raise GateError(f"{path} is cut off ({error}); is the disk full? Run again with the same --run") from error
