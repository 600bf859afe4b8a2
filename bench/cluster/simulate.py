"""What a sweep costs beside its cases: `python -m bench.cluster.simulate -o DIR`.

Real are the scheduler of dask, its connections by TCP on loopback, the driver (`Sweep`), and the one writer with the
run directory on disk. Simulated are the workers, which are threads of this process, and the cases, which sleep and
return a record of the usual size: no process is started for them, no pytest, no model. As scheduler, workers and driver
share this one process, what is measured is what all of them take together. Workers are kept from profiling themselves.

Three kinds of rows: `overhead`, cases of no length, whose wall time is all overhead; `busy`, cases of five seconds on
64 workers; and `report`, a run directory of many cases that `python -m reports` reads and draws.
"""

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice, product
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench.cluster.connect import LOOPBACK, connected
from bench.cluster.fleet import Fleet
from bench.cluster.store import Store
from bench.cluster.sweep import Job, Sweep, Work
from bench.rundir.description import BLANK_CASE, OK, SCHEMA
from bench.rundir.directory import BLANK_PLAN, RunDirectory

CASES, WORKERS = (10, 1_000, 100_000), (1, 8, 64)
BUSY = (64, 640, 5.0)  # workers, cases, seconds of one
TASKS, CRITERIA, KEPT, BATCHES = 2, 20, 50, 50  # of a run: their product is the most cases
HEADS, ROUNDS, EXAMPLES = 100, 12, 20
FACTS = {"code": "simulated", "python": "3", "packages": {}, "fingerprint": "simulated", "cpu": "simulated"}
CALM = {  # what each worker does by itself many times a second, and 64 of them in one process would do nothing else
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "2s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.comm.timeouts.tcp": "300s",  # a busy process answers late
}


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        kind: "overhead", "busy" or "report".
        workers: simulated ones; 0 where there are none.
        case_seconds: how long each case takes by itself.
        seconds: of wall time, from the first job submitted to the last one stored; of "report", of reading and drawing.
        overhead_ms: milliseconds of wall time beside the cases, for each case.
        busy_share: of the workers' time, what they spent in cases.
        writer_ms: milliseconds that the writer took for a case, among the others.
        cpu_ms: milliseconds of CPU time of this process beside the cases, for each case: what a busy machine leaves as
            it is.
        peak_mib: MiB of memory that this process, or the report's processes together, had at the most.
    """

    kind: str
    cases: int
    workers: int
    case_seconds: float
    seconds: float
    overhead_ms: float | None
    busy_share: float | None
    writer_ms: float | None
    cpu_ms: float | None
    peak_mib: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the table; arguments are those of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.simulate", description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder, for run directories")
    parser.add_argument("--table", type=Path, help="where the table goes; default: cluster-scale.csv in that folder")
    parser.add_argument("--cases", type=_numbers, default=CASES, help="how many cases, as 10,1000")
    parser.add_argument("--workers", type=_numbers, default=WORKERS, help="how many workers, as 1,8,64")
    parser.add_argument("--skip", nargs="*", default=(), choices=("overhead", "busy", "report"))
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    table = given.table or given.output / "cluster-scale.csv"
    rows: list[Row] = []
    for row in _rows(given):
        rows.append(row)
        print(*row, flush=True)  # noqa: T201
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([Row._fields, *map(_cells, rows)])


def _rows(given: argparse.Namespace) -> Iterator[Row]:
    if "overhead" not in given.skip:
        for cases, workers in product(given.cases, given.workers):
            yield sweep_of("overhead", given.output / f"overhead-{cases}-{workers}", cases, workers, 0.0)
    if "busy" not in given.skip:
        workers, cases, seconds = BUSY
        yield sweep_of("busy", given.output / "busy", cases, workers, seconds)
    if "report" not in given.skip:
        for cases in given.cases:
            yield report_of(given.output / f"report-{cases}", cases)


def sweep_of(kind: str, folder: Path, cases: int, workers: int, seconds: float) -> Row:
    """Run a sweep of simulated cases into a new run directory, and measure it.

    Raises:
        RuntimeError: a case is missing at its end, or there twice.
    """
    import dask.config
    from distributed import LocalCluster

    shutil.rmtree(folder, ignore_errors=True)
    run = _new_run(folder)
    records = {record["case"]: record for record in islice(_records(), cases)}
    writing = 0.0
    store = Store(run, time.monotonic)
    stored: list[str] = []

    def take(job: Job, result: Mapping[str, Any]) -> None:
        nonlocal writing
        began = time.perf_counter()
        store.take(result, timed=False)
        writing += time.perf_counter() - began
        stored.append(job.name)

    work = Work(
        spec=lambda job: {"record": records[job.name], "seconds": seconds},
        stored=take,
        lost=lambda job, why: (_ for _ in ()).throw(RuntimeError(f"{job.name}: {why}")),
        function=simulated_case,
    )
    with (
        dask.config.set(CALM),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, protocol="tcp://", host=LOOPBACK,
            dashboard_address=None, memory_limit=0, silence_logs="CRITICAL",
        ) as cluster,
        connected(cluster.scheduler_address) as client,
        _Peak() as peak,
    ):  # fmt: skip
        fleet = Fleet("simulated", (), FACTS, ask=simulated_facts)
        fleet.look(client)
        jobs = [Job(name, {}) for name in records]
        began, computed = time.perf_counter(), time.process_time()
        Sweep("simulated", cluster.scheduler_address, client, fleet, jobs, work).run()
        took, cpu = time.perf_counter() - began, time.process_time() - computed
    run.close()
    files = len([*(folder / "cases").iterdir()])
    if sorted(stored) != sorted(records) or files != cases:
        raise RuntimeError(f"{cases} cases were run, {len(stored)} stored, and {files} files written")
    busy = cases * seconds / workers
    share = busy / took if seconds else None
    overhead, writer, cpu_ms = (1e3 * each / cases for each in (took - busy, writing, cpu))
    return Row(kind, cases, workers, seconds, took, overhead, share, writer, cpu_ms, peak.mib)


def report_of(folder: Path, cases: int) -> Row:
    """Write a run directory of so many cases, and measure how long its report takes in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    run = _new_run(folder)
    records = [*islice(_records(), cases)]
    for record in records:
        (folder / "cases" / f"{record['case']}.json").write_text(json.dumps(record), encoding="utf-8")
    for plan in _plans({record["plan"] for record in records}):
        with run.plan(**plan):
            pass
    run.assemble()
    run.finish(folder / "none.json", interrupted=False)
    run.close()
    began = time.perf_counter()
    command = [sys.executable, "-m", "reports", str(folder), "-o", str(folder / "report")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process, _Peak(process.pid) as peak:
        code = process.wait()
    took = time.perf_counter() - began
    if code:
        raise RuntimeError(f"the report ended with exit code {code}")
    return Row("report", cases, 0, 0.0, took, None, None, None, None, peak.mib)


def simulated_case(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker does for a simulated case: sleep, and return its record as a file."""
    time.sleep(spec["seconds"])
    record = spec["record"]
    files = {f"cases/{record['case']}.json": json.dumps(record).encode()}
    environment = {**FACTS, "tasks": {}, "machine": {"checks": [], "noisy": []}}
    return {"files": files, "environment": environment, "reports": [], "host": "simulated"}


def simulated_facts(*_: Any) -> dict[str, Any]:
    """What a simulated worker says of itself."""
    return {"environment": FACTS, "devices": ["cpu"], "why_not": {}, "host": "simulated", "pid": 0}


def _new_run(folder: Path) -> RunDirectory:
    about = {"metric": "accuracy", "higher_is_better": True, "chance": 0.1, "batch_size": 1}
    layers = {"layers": {"layer": HEADS}, "heads": HEADS, "examples": EXAMPLES, "parameters": 10_000}
    return RunDirectory.create(folder, FACTS, {f"task{task}": {**about, **layers} for task in range(TASKS)})


def _records() -> Iterator[dict[str, Any]]:
    """Yield records of cases, as many as a run may have, each of the usual size."""
    rng = random.Random(0)
    for batch, kept, criterion, task in product(range(BATCHES), range(KEPT), range(CRITERIA), range(TASKS)):
        share = (kept + 1) / (KEPT + 1)
        heads = round(share * HEADS)
        variant = f"task{task}-criterion{criterion}-keep{share:.3f}"
        case, dense = f"{variant}-b{batch + 1}-cpu", 1e-3 * (batch + 1)
        samples = [
            {"arm": arm, "round": turn, "seconds": seconds * rng.uniform(1, 1.1)}
            for turn in range(ROUNDS)
            for arm, seconds in (("dense", dense), ("pruned", dense * (0.5 + share / 2)))
        ]
        yield {
            **BLANK_CASE,
            "schema": SCHEMA,
            "status": OK,
            "error": None,
            "case": case,
            "kind": "pruning",
            "task": f"task{task}",
            "criterion": f"criterion{criterion}",
            "plan": f"{variant}-0",
            "kept_fraction": share,
            "timed_by": case,
            "heads_kept": heads,
            "heads_total": HEADS,
            "shape": [heads],
            "batch": batch + 1,
            "seq_len": 128,
            "device": "cpu",
            "dtype": "float32",
            "samples": samples,
            "ended": "steady",
            "warm_up": 3,
            "process": 0,
        }


def _plans(names: set[str]) -> Iterator[dict[str, Any]]:
    """Yield a record for each of the plans of these names, and for the dense models."""
    rng = random.Random(1)
    for name in [*(f"task{task}-dense" for task in range(TASKS)), *sorted(names)]:
        task, criterion, *share = name.removesuffix("-0").split("-")
        kept = float(share[0].removeprefix("keep")) if share else 1.0
        values = [float(rng.random() < 0.5 + kept / 2) for _ in range(EXAMPLES)]
        value = sum(values) / EXAMPLES
        heads = round(kept * HEADS)
        judged = {"value": value, "low": value - 0.1, "high": value + 0.1, "examples": EXAMPLES, "values": values}
        difference = {"difference": value - 1, "difference_low": value - 1.1, "difference_high": value - 0.9}
        yield {
            **BLANK_PLAN,
            "plan": name,
            "task": task,
            "criterion": criterion,
            "kept_fraction": kept,
            "draw": 0,
            "heads_kept": heads,
            "heads_total": HEADS,
            "shape": [heads],
            "keep": {"layer": [*range(heads)]},
            **judged,
            **difference,
            "parameters": 10_000,
        }


class _Peak:
    """Looks, within a context, how much memory a process and those that it has started have at most together."""

    def __init__(self, pid: int | None = None) -> None:
        self._process, self._ended, self.mib = psutil.Process(pid), threading.Event(), 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        for _ in count():
            taken = 0
            try:
                for process in (self._process, *self._process.children(recursive=True)):
                    taken += process.memory_info().rss
            except psutil.Error:  # it has just ended
                pass
            self.mib = max(self.mib, taken / 2**20)
            if self._ended.wait(0.5):
                return


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _cells(row: Row) -> list[Any]:
    """A row's cells: numbers to as many digits as mean something."""
    return ["" if value is None else f"{value:.4g}" if isinstance(value, float) else value for value in row]


if __name__ == "__main__":
    main()
