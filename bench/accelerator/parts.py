"""The parts of a run on an accelerator: each a command of its own, within a time of its own.

What a part has measured when its time ends is whole: it is interrupted as by Ctrl-C, and what it measured stands in the
run directory already.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

ROOT = Path(__file__).parents[2]
TESTS = (  # those that need an accelerator, and skip without one
    "tests/mha/test_on_accelerator.py",
    "tests/mha/timing/test_rounds.py",
    "tests/mha/timing/test_cache_flush.py",
    "tests/bench/measure/test_memory.py",
)
COMPILED = (  # to compile a case takes seconds: few
    *("-k", "not padded and not causal", "--modes", "compile", "--dtypes", "float32,bfloat16"),
    *("--batch-sizes", "1,8", "--lengths", "1024"),
)
GRACE = 20.0  # seconds that an interrupted part has to end by itself
QUIET = ("-q", "-p", "no:cacheprovider")
GATE = "gate"  # folder of the gate's runs, in the folder of what is no part of the run directory
NO_TESTS = 5  # pytest's exit code where nothing was selected


@dataclass(frozen=True)
class Part:
    """A command, and the seconds that it may take.

    Attributes:
        arguments: of Python.
        seconds: the most that it may take.
        environment: variables that it gets besides.
        missing: why it can't be run here; None if it can.
    """

    name: str
    arguments: Sequence[str]
    seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str | None = None


class Outcome(TypedDict):
    """What became of a part.

    Attributes:
        status: "ok", "failed", "out of time" or "left out".
        why: of any other than "ok", in a sentence.
    """

    part: str
    status: str
    seconds: float
    why: str | None


def parts(run: Path, device: str, *, quick: bool, tasks: Sequence[str]) -> list[Part]:
    """The parts of a run, in the order in which they are run: what matters most comes first.

    Args:
        run: the run directory, absolute.
        quick: measure next to nothing, to see that everything works.
        tasks: what `--task` of `pytest bench` takes: models with weights of their own.
    """
    preset = "--quick" if quick else "--accelerator"
    modes = "eager" if device == "cpu" else "eager,graph"
    beside = run.with_name(f"{run.name}-more")

    def benchmarks(name: str, *words: str, seconds: float, missing: str | None = None) -> Part:
        where = ("--devices", device, "--run", str(run))
        return Part(name, ("-m", "pytest", *words, preset, *where, *QUIET), seconds, missing=missing)

    tests = ("-m", "pytest", *QUIET, f"--junitxml={beside / 'tests.xml'}", "-k")
    selected = "test_on_accelerator or cuda"
    no_tests = None if (ROOT / TESTS[0]).exists() else "the tests are not here; they are in a checkout of the project"
    no_transformers = None if find_spec("transformers") else "transformers is not installed"
    gate = ("--run", str(beside / GATE), "--device", device, "--no-change", "1", "--injected", "noise:0.10")
    few = ("--loaded", "0", "--simulated", "0", "--no-exact", "--seconds", "0.1", "--budget", "100")
    return [
        benchmarks("ceilings", "bench/bench_ceilings.py", seconds=40),
        benchmarks("layer", "bench/bench_attention.py", "--modes", modes, seconds=150),
        benchmarks("generation", "bench/bench_generation.py", seconds=75, missing=no_transformers),
        Part("tests", (*tests, selected, *TESTS), 60, {"MHA_TEST_DEVICE": device}, no_tests),
        benchmarks("costs", "bench/bench_costs.py", "-k", "attention or llama or smollm2", seconds=60),
        benchmarks("compiled", "bench/bench_attention.py", *COMPILED, seconds=70),
        *(_of_tasks(benchmarks, tasks) if tasks else ()),
        Part("profile", ("-m", "bench.accelerator.profiling", str(run), "-o", str(beside), "--device", device), 40),
        Part("gate", ("-m", "bench.regress.calibrate", *gate, *few), 170, missing=_no_gate()),
    ]


def _of_tasks(benchmarks: Callable[..., Part], tasks: Sequence[str]) -> Iterator[Part]:
    """Yield the parts that measure models with weights of their own, at one kept fraction."""
    named = [word for task in tasks for word in ("--task", task)]
    chosen = (*named, "--criteria", "magnitude,even")
    yield benchmarks("tasks", "bench/bench_tasks.py", "bench/bench_pruning.py", *chosen, seconds=90)
    yield benchmarks("costs of tasks", "bench/bench_costs.py", *named, seconds=40)


def _no_gate() -> str | None:
    """Why the gate can't be run here: it compares two checkouts that git makes; None if it can."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, check=False)
    except FileNotFoundError:
        return "git is not installed, which makes the gate's two checkouts"
    return None if done.returncode == 0 else f"{ROOT} is no git checkout, of which the gate makes two"


def run_parts(wanted: Sequence[Part], seconds: float, say: Callable[[str], None]) -> Iterator[Outcome]:
    """Run the parts one after another, each within its own time and what is left of all; yield what became of each."""
    end = time.monotonic() + seconds
    for part in wanted:
        left = end - time.monotonic()
        if part.missing is not None:
            yield _outcome(part, "left out", 0.0, part.missing)
        elif left < GRACE:
            yield _outcome(part, "left out", 0.0, f"no time was left of {seconds:.0f} s")
        else:
            say(f"{part.name}: at most {min(part.seconds, left):.0f} s")
            yield run_part(part, min(part.seconds, left - GRACE / 2))


def run_part(part: Part, seconds: float) -> Outcome:
    """Run a part; when its time is over it is interrupted, and killed if that does not end it within `GRACE`."""
    started = time.monotonic()
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **part.environment}
    process = subprocess.Popen(
        [sys.executable, *part.arguments], cwd=ROOT, env=variables, start_new_session=True, preexec_fn=_interruptible
    )
    late = False
    try:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            late = True
            _end(process)
    except BaseException:
        _end(process)
        raise
    took = time.monotonic() - started
    if late:
        return _outcome(part, "out of time", took, f"its time of {seconds:.0f} s was over; what it measured is kept")
    if process.returncode in (0, NO_TESTS):
        return _outcome(part, "ok", took, None)
    return _outcome(part, "failed", took, f"it ended with exit code {process.returncode}; what it printed is above")


def _interruptible() -> None:
    """Let the process that is being started be interrupted, also where a shell has started this one to ignore that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(process: "subprocess.Popen[Any]") -> None:
    """Interrupt a process and all that it has started; after `GRACE` kill them."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _outcome(part: Part, status: str, seconds: float, why: str | None) -> Outcome:
    return Outcome(part=part.name, status=status, seconds=round(seconds, 1), why=why)
