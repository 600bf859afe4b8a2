"""Whether the machine stayed the same while a run went on: a control workload, foreign load and the clock.

The control does the same work every time, so its own time tells what the machine did to the times of everything else.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

import torch

REPETITIONS = 15
SIZE, PRODUCTS, STEPS = 256, 10, 150_000  # three matrices of 256 kB fit in a core's cache; some 10 ms a repetition
EVERY = 60.0  # seconds
SHARE = 0.05  # by which medians of the control, or clocks, may differ
CORES = 0.1  # that others may use on average
SHARED = 2**30  # bytes of an accelerator that others may hold: what a context of our own takes is among them
PROCESSES, STAT, CPUINFO, CPUFREQ = (
    Path("/proc"),
    Path("/proc/stat"),
    Path("/proc/cpuinfo"),
    Path("/sys/devices/system/cpu"),
)


class Check(TypedDict):
    """One look at the machine.

    Attributes:
        when: ISO time.
        process: number of the process that looked.
        control: seconds of each repetition of the control workload.
        load: cores that others have used since the check before; None where it is not known, as in a first one.
        mhz: clock rate of the fastest core, right after the control; None where it is not known.
        held: CUDA device that this process uses -> bytes of its memory that others hold; {} without one.
    """

    when: str
    process: int
    control: list[float]
    load: float | None
    mhz: float | None
    held: dict[str, int]


class Watch:
    """Checks the machine whenever asked to, and passes on all checks of the run so far, for `environment.json`.

    Args:
        process: number of this process, of those that a figure is measured in.
        checks: those of earlier parts of the run.
        note: called after each check with the fields of `environment.json` that it changes.
    """

    def __init__(self, process: int, checks: Sequence[Check], note: Callable[[Mapping[str, Any]], None]) -> None:
        self._process, self._checks, self._note = process, list(checks), note
        self._usage: Usage | None = None
        self._last = -EVERY

    def check(self) -> None:
        """Run the control workload, read load and clock, and note all checks so far and the reasons of `noise`."""
        usage = usage_so_far()
        load, self._usage = load_between(self._usage, usage), usage
        times = control()
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        check = Check(when=when, process=self._process, control=times, load=load, mhz=_mhz(), held=held_by_others())
        self._checks.append(check)
        self._last = time.monotonic()
        self._note({"machine": {"checks": self._checks, "noisy": list(noise(self._checks))}})

    def check_if_due(self) -> None:
        """Call `check` if the last check is a minute ago, or there was none."""
        if time.monotonic() - self._last >= EVERY:
            self.check()


def control() -> list[float]:
    """Wall-clock seconds of 15 repetitions of a fixed workload: matrix products in cache, a loop in plain Python."""
    matrix = torch.ones(SIZE, SIZE) / SIZE
    return [_work(matrix) for _ in range(REPETITIONS + 1)][1:]  # the first warms up


def noise(checks: Sequence[Check]) -> Iterator[str]:
    """Yield the reasons why a run is noisy, as sentences.

    They are: medians of the control workload, or clock rates, that differ by more than 5 % between checks, other
    programs that used more than 0.1 cores on average, and others that held memory of an accelerator.
    """
    times = [1e3 * median(check["control"]) for check in checks]
    if times and _apart(times) > SHARE:
        yield f"The control workload took {_between(times, '.1f', 'ms')}."
    if (load := _average_load(checks)) is not None and load > CORES:
        yield f"Other programs used {load:.2f} cores on average; up to {CORES:g} is quiet."
    clocks = [check["mhz"] for check in checks if check["mhz"]]
    if clocks and _apart(clocks) > SHARE:
        yield f"The clock stood {_between(clocks, '.0f', 'MHz')}."
    held = [(taken, device) for check in checks for device, taken in check.get("held", {}).items() if taken > SHARED]
    if held:
        taken, device = max(held)
        yield f"Other programs held {taken / 2**30:.1f} GiB of {device}'s memory, so they may have computed on it, too."


def _work(matrix: torch.Tensor) -> float:
    """Wall-clock seconds of one repetition of the control workload; `matrix` is multiplied by itself."""
    start, total = time.perf_counter(), 0
    for _ in range(PRODUCTS):
        matrix = matrix @ matrix
    for step in range(STEPS):
        total += step
    return time.perf_counter() - start


def _apart(values: Sequence[float]) -> float:
    """How far the largest value is above the smallest, as a share of the smallest."""
    return max(values) / min(values) - 1


def _between(values: Sequence[float], style: str, unit: str) -> str:
    low, high = min(values), max(values)
    return f"between {low:{style}} and {high:{style}} {unit}, {_apart(values):.0%} apart; up to {SHARE:.0%} is quiet"


def _average_load(checks: Sequence[Check]) -> float | None:
    """How many cores other programs used on average, each check weighed by the time it spans; None if unknown."""
    spans = [
        (load, (_time(after) - _time(before)).total_seconds())
        for before, after in pairwise(checks)
        if (load := after["load"]) is not None
    ]
    total = sum(seconds for _, seconds in spans)
    return sum(load * seconds for load, seconds in spans) / total if total else None


def _time(check: Check) -> datetime:
    return datetime.fromisoformat(check["when"])


Usage = tuple[float, float, float]  # seconds on the clock, of all cores' time in use, of it our own


def usage_so_far() -> Usage | None:
    """Seconds on the clock, CPU seconds of all programs, and of them our own; None if the system does not tell."""
    if not STAT.exists():
        return None
    fields = STAT.read_text().split("\n", 1)[0].split()[1:9]  # user nice system idle iowait irq softirq steal
    user, nice, system, _, _, *others = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields)
    return time.monotonic(), user + nice + system + sum(others), _our_seconds()


def _our_seconds() -> float:
    """CPU seconds used so far by this process and all its descendants, also those that have ended."""
    used, parents = {}, {}
    for file in PROCESSES.glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()  # the name before may hold anything
        except OSError:  # it has just ended
            continue
        pid = int(file.parent.name)
        parents[pid] = int(fields[1])
        used[pid] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime stime cutime cstime
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(used.get(pid, 0.0) for pid in ours)


def load_between(before: Usage | None, now: Usage | None) -> float | None:
    """How many cores other programs used, on average, between two readings of `usage_so_far`; None if not known."""
    if before is None or now is None or now[0] <= before[0]:
        return None
    seconds, everyone, ours = (late - early for early, late in zip(before, now, strict=True))
    return max(0.0, round((everyone - ours) / seconds, 3))


def held_by_others() -> dict[str, int]:
    """CUDA device that this process uses -> bytes of its memory that are neither free nor this process's tensors."""
    if not torch.cuda.is_initialized():
        return {}
    count = torch.cuda.device_count()
    held = {}
    for index in range(count):
        if own := torch.cuda.memory_reserved(index):
            free, total = torch.cuda.mem_get_info(index)
            held["cuda" if count == 1 else f"cuda:{index}"] = total - free - own
    return held


def _mhz() -> float | None:
    """The clock rate in MHz of the fastest core, since the others may rest; None where it is not known."""
    clocks = [int(file.read_text()) / 1e3 for file in CPUFREQ.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    if not clocks and CPUINFO.exists():
        clocks = [float(clock) for clock in re.findall(r"^cpu MHz\s*: ([\d.]+)$", CPUINFO.read_text(), re.MULTILINE)]
    return max(clocks, default=None)
