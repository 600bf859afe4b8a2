"""The options of `pytest bench`, and the settings they become.

Nothing heavy is imported before the settings are asked for: pytest reads this file in every run, also
in those that collect no benchmark.
"""

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

if TYPE_CHECKING:
    from mha.tasks import Task

T = TypeVar("T")

KEEP = (0.75, 0.5, 0.25)
CRITERIA = ("gate", "leave_one_out", "magnitude", "random", "taylor", "even")  # of some fifteen: each costs minutes
ATTRIBUTES = ("name", "metric", "higher_is_better", "chance")
METHODS = ("model", "calibration", "loss", "forward", "evaluate", "aggregate", "example")
SELECTING = ("benchmark_only", "benchmark_skip")  # of pytest-benchmark


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run measures, and how long it may take over it.

    Attributes:
        keep: fractions of the heads, in (0, 1].
        batch_sizes: None where each task is timed at 1 and at its own batch size.
        devices: where latency is measured, as `torch.device` takes them; scores and accuracy come from the CPU.
        random_draws, even_draws: repetitions of the baselines, for accuracy.
    """

    directory: Path
    tasks: Sequence["Task"] = field(repr=False)
    criteria: tuple[str, ...]
    keep: tuple[float, ...]
    batch_sizes: tuple[int, ...] | None
    devices: tuple[str, ...]
    quick: bool = False

    @property
    def random_draws(self) -> int:
        return 5 if self.quick else 20

    @property
    def even_draws(self) -> int:
        return 2 if self.quick else 5

    @property
    def limits(self) -> dict[str, Any]:
        """What the rounds of one timed case may take, and the fewest and most of them."""
        return {"seconds": 0.1, "rounds": (4, 20)} if self.quick else {"seconds": 0.8, "rounds": (10, 200)}

    @property
    def cost_seconds(self) -> float:
        """How long the costs of one model's layers may be measured; checking them takes half of it again."""
        return 0.2 if self.quick else 7.0

    def draws(self, criterion: str) -> int:
        """How many plans a criterion makes of each kept fraction."""
        return {"random": self.random_draws, "even": self.even_draws}.get(criterion, 1)

    def batches(self, task: "Task") -> tuple[int, ...]:
        """The batch sizes a task is timed at, in ascending order."""
        own = getattr(task, "batch_size", 32)
        return self.batch_sizes or ((own,) if self.quick else tuple(sorted({1, own})))

    def batch(self, task: "Task") -> int:
        """The batch size at which a task's latency is reported: its own, or else the largest asked for."""
        own, batches = getattr(task, "batch_size", 32), self.batches(task)
        return own if own in batches else batches[-1]


def add_options(parser: pytest.Parser) -> None:
    """The benchmarks' options, all in one group of `pytest --help`."""
    group = parser.getgroup("bench", "benchmarks of head pruning (pytest bench)")
    several = "comma-separated; default: "
    group.addoption(
        "--task",
        action="append",
        metavar="NAME",
        help="reference task, or path.py:name for an object of your own; repeatable or comma-separated; "
        "default: every reference task",
    )
    group.addoption("--criteria", metavar="NAMES", help=f"how heads are chosen, {several}{','.join(CRITERIA)}")
    group.addoption("--keep", metavar="FRACTIONS", help=f"kept fractions in (0, 1], {several}0.75,0.5,0.25")
    group.addoption("--batch-sizes", metavar="SIZES", help=f"{several}1 and each task's own")
    group.addoption("--devices", metavar="NAMES", help=f"cpu, cuda, cuda:1, mps; {several}all there are")
    group.addoption("--quick", action="store_true", help="one kept fraction, one batch size, few draws and rounds")
    group.addoption("--run", metavar="DIR", help="where results are written; default: runs/<time in UTC>")


def settings_of(config: pytest.Config) -> Settings:
    """What the command line asks for, checked; the same object every time.

    Raises:
        pytest.UsageError: a value that is not possible here; says which ones are.
    """
    if _SETTINGS not in config.stash:
        config.stash[_SETTINGS] = _settings(config)
    return config.stash[_SETTINGS]


def run_directory(config: pytest.Config) -> Path:
    """Where the results of this run go; the name is made up once where none was given."""
    if config.option.run is None:
        config.option.run = str(Path("runs") / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    return Path(config.option.run)


_SETTINGS = pytest.StashKey[Settings]()


def _settings(config: pytest.Config) -> Settings:
    option = config.option
    for name in SELECTING:
        if getattr(option, name, False):
            flag = "--" + name.replace("_", "-")
            raise pytest.UsageError(f"{flag}: latency is timed beside accuracy here; select with -k latency instead")
    known = _criteria()
    return Settings(
        directory=_free(run_directory(config)),
        criteria=_several("--criteria", option.criteria, lambda word: _one_of("--criteria", word, known)) or CRITERIA,
        keep=_several("--keep", option.keep, _fraction) or ((0.5,) if option.quick else KEEP),
        batch_sizes=tuple(sorted(_several("--batch-sizes", option.batch_sizes, _batch_size))) or None,
        devices=_several("--devices", option.devices, _device) or _devices(),
        quick=option.quick,
        tasks=_tasks(option.task),  # last: a file of the user's is run
    )


def _several(flag: str, text: str | None, parse: Callable[[str], T]) -> tuple[T, ...]:
    """Each of the comma-separated words once, parsed; () where the option was not given."""
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise pytest.UsageError(f"{flag}: expected one value or several, separated by commas, got {text!r}")
    return tuple(dict.fromkeys(parse(word) for word in words))


def _one_of(flag: str, word: str, known: Iterable[str]) -> str:
    if word not in known:
        raise pytest.UsageError(f"{flag}: unknown {word!r}; choose from {', '.join(known)}")
    return word


def _fraction(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise pytest.UsageError(f"--keep: {word!r} is not a number; give fractions in (0, 1], as 0.75,0.5") from None
    if not 0.0 < value <= 1.0:
        raise pytest.UsageError(f"--keep: {word} is not in (0, 1]; give the share of heads that stays, as 0.75,0.5")
    return value


def _batch_size(word: str) -> int:
    if not word.isdecimal() or int(word) == 0:
        raise pytest.UsageError(f"--batch-sizes: {word!r} is not a whole number from 1 up; give sizes, as 1,32")
    return int(word)


def _criteria() -> tuple[str, ...]:
    import mha

    return (*mha.criteria(), "even")


def _devices() -> tuple[str, ...]:
    """The CPU, and every device of torch's accelerator."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ("cpu",)
    count = torch.accelerator.device_count()
    kind = accelerator.type
    return ("cpu", *([kind] if count == 1 else [f"{kind}:{index}" for index in range(count)]))


def _device(word: str) -> str:
    here = _devices()
    kind, _, index = word.partition(":")
    first = f"{kind}:0" in here  # of several: "cuda" is "cuda:0"
    if word in here or (not index and first):
        return word if word in here else f"{word}:0"
    if index == "0" and kind in here and kind != "cpu":
        return kind
    raise pytest.UsageError(f"--devices: {word!r} is not here; this machine has {', '.join(here)}")


def _free(directory: Path) -> Path:
    """The directory, if nothing is in it yet."""
    if directory.exists() and not directory.is_dir():
        raise pytest.UsageError(f"--run: {directory} is a file; give a directory that is empty or does not exist yet")
    if directory.is_dir() and any(directory.iterdir()):
        what = "a run already" if (directory / "environment.json").exists() else "other files"
        raise pytest.UsageError(f"--run: {directory} holds {what}; give a directory that is empty or does not exist")
    return directory


def _tasks(given: Sequence[str] | None) -> tuple["Task", ...]:
    from bench import tasks

    words = [word for text in given or () for word in _several("--task", text, str)] or tasks.names()
    chosen: dict[str, Task] = {}
    for word in dict.fromkeys(words):
        task = _user_task(word) if ".py" in word else tasks.load(_reference(word, tasks.names()))
        if task.name in chosen:
            raise pytest.UsageError(f"--task: two tasks are named {task.name!r}; results are filed by task name")
        chosen[task.name] = task
    return tuple(chosen.values())


def _reference(word: str, known: tuple[str, ...]) -> str:
    if word not in known:
        raise pytest.UsageError(
            f"--task: unknown {word!r}; choose from {', '.join(known)}, or give an object of your own as path.py:name"
        )
    return word


def _user_task(word: str) -> "Task":
    """The task that `path.py:name` speaks of, with everything a task needs."""
    path, _, name = word.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise pytest.UsageError(f"--task: {word!r}: expected path.py:name, the file and the name of the task in it")
    if not Path(path).is_file():
        raise pytest.UsageError(f"--task: {word!r}: there is no file {path}")
    module = _imported(Path(path), word)
    if not hasattr(module, name):
        others = [
            key for key, value in vars(module).items() if hasattr(value, "evaluate") and not inspect.isclass(value)
        ]
        raise pytest.UsageError(f"--task: {word!r}: {path} has no {name!r}; it has {', '.join(others) or 'no task'}")
    task = getattr(module, name)
    _check_task(task, word)
    return cast("Task", task)


def _imported(path: Path, word: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"bench_task_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise pytest.UsageError(f"--task: {word!r}: importing it raised {type(error).__name__}: {error}") from error
    return module


def _check_task(task: Any, word: str) -> None:
    if inspect.isclass(task):
        raise pytest.UsageError(f"--task: {word!r} is a class; name an object, as task = {task.__name__}()")
    if missing := [member for member in (*ATTRIBUTES, *METHODS) if not hasattr(task, member)]:
        raise pytest.UsageError(
            f"--task: {word!r} lacks {', '.join(missing)}; mha.tasks.Task says what a task offers, subclass it"
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", str(task.name)) or task.name == "attention":
        raise pytest.UsageError(
            f"--task: {word!r} is named {task.name!r}; names stand in file names: lower-case letters, digits, "
            "'_', '.' and '-' ('attention' is taken by the bare layer)"
        )
