"""The options of `pytest bench`, and the settings they become.

Nothing heavy is imported before the settings are asked for: pytest reads this file in every run, also
in those that collect no benchmark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from bench.rundir.description import USUAL, VALUES
from bench.settings.option_parsing import fraction, naming, one_of, several, whole_number

if TYPE_CHECKING:
    from mha.tasks import Task

CRITERIA = ("gate", "leave_one_out", "magnitude", "random", "taylor", "even")  # of some fifteen: each costs minutes
BASELINES = ("random", "even")
DEFAULT = "leave_one_out"  # the criterion whose plans are repaired, unless --criteria leaves it out
DTYPES, MODES, REPAIRS = VALUES["dtype"], VALUES["mode"], VALUES["repair"]
SELECTING = ("benchmark_only", "benchmark_skip")  # of pytest-benchmark


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a run measures where the command line does not say, and how long it takes over that.

    Attributes:
        limits: `seconds` that all rounds of one timed case may take, and `rounds`, the fewest and the most of them.
        random_draws, even_draws: how many plans of each kept fraction the criteria "random" and "even" make.
        cost_seconds: how long the costs of one model's layers may be measured; checking them takes half of it again.
        keep, dtypes, modes, repair: what is measured where the command line does not say.
        shrunk: to how many of the kept fractions, the smallest ones, models are shrunk then: each takes long.
    """

    limits: Mapping[str, Any]
    random_draws: int = 20
    even_draws: int = 5
    cost_seconds: float = 7.0
    keep: tuple[float, ...] = (0.75, 0.5, 0.25)
    dtypes: tuple[str, ...] = (USUAL["dtype"],)
    modes: tuple[str, ...] = (USUAL["mode"],)
    repair: tuple[str, ...] = REPAIRS
    shrunk: int = 2


PRESETS = MappingProxyType(
    {
        "quick": Preset(
            limits={"seconds": 0.1, "rounds": (4, 20)},
            random_draws=5,
            even_draws=2,
            cost_seconds=0.2,
            keep=(0.5,),
            repair=REPAIRS[:2],
        ),
        "default": Preset(limits={"seconds": 0.8, "rounds": (10, 200)}),
        "full": Preset(limits={"seconds": 3.0, "rounds": (6, 1000)}, cost_seconds=30.0, dtypes=DTYPES, modes=MODES),
        "accelerator": Preset(
            limits={"seconds": 0.2, "rounds": (6, 400)},
            random_draws=5,
            even_draws=1,
            cost_seconds=6.0,
            keep=(0.5,),
            dtypes=DTYPES,
            modes=MODES,
            repair=(USUAL["repair"],),
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run measures, and how long it may take over that.

    Attributes:
        keep: fractions of the heads, in (0, 1].
        batch_sizes: in ascending order; None where none are asked for (`batches` says what a task is timed at then).
        devices: where latency is measured, as `torch.device` takes them; scores and accuracy come from the CPU.
        dtypes, modes: by name; `dtypes_on` and `modes_on` say which of them are measured on a device.
        lengths, head_dims: None where each benchmark has its own.
        repair: which models are measured: raw plans ("none"), repaired ones ("compensate"), shrunk ones ("shrink").
        shrink_keep: the kept fractions to which models are shrunk.
        process: number of this process, of those that a published figure is measured in.
        left_out: (device, dtype or mode) -> why it is not measured, though the preset would.
        files: task's name -> the user's file that it comes from.
        tasks_left_out: name of a reference task that the preset would measure -> why it is not.
    """

    directory: Path
    tasks: Sequence["Task"] = field(repr=False)
    criteria: tuple[str, ...]
    keep: tuple[float, ...]
    batch_sizes: tuple[int, ...] | None
    devices: tuple[str, ...]
    preset: str = "default"
    dtypes: tuple[str, ...] = (USUAL["dtype"],)
    lengths: tuple[int, ...] | None = None
    head_dims: tuple[int, ...] | None = None
    modes: tuple[str, ...] = (USUAL["mode"],)
    repair: tuple[str, ...] = (USUAL["repair"],)
    shrink_keep: tuple[float, ...] = ()
    process: int = 0
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    tasks_left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def quick(self) -> bool:
        """Whether the preset is "quick", which only shows that everything works."""
        return self.preset == "quick"

    @property
    def limits(self) -> Mapping[str, Any]:
        """The `seconds` that all rounds of one timed case may take, and the fewest and most `rounds`."""
        return PRESETS[self.preset].limits

    @property
    def cost_seconds(self) -> float:
        """How many seconds measuring the cost table of one model may take; checking it takes half of that again."""
        return PRESETS[self.preset].cost_seconds

    @property
    def random_draws(self) -> int:
        """How many plans of each kept fraction the criterion "random" makes."""
        return PRESETS[self.preset].random_draws

    @property
    def repaired(self) -> str | None:
        """The criterion whose plans are repaired: leave-one-out, or else the first that is no baseline, if any."""
        chosen = [name for name in self.criteria if name not in BASELINES]
        return DEFAULT if DEFAULT in chosen else next(iter(chosen), None)

    def draws(self, criterion: str) -> int:
        """How many plans a criterion makes of each kept fraction: several for "random" and "even", else one."""
        return {"random": self.random_draws, "even": PRESETS[self.preset].even_draws}.get(criterion, 1)

    def dtypes_on(self, device: str) -> tuple[str, ...]:
        """The dtypes that are measured on a device: all but those of `left_out`."""
        return tuple(dtype for dtype in self.dtypes if (device, dtype) not in self.left_out)

    def modes_on(self, device: str) -> tuple[str, ...]:
        """The modes that are measured on a device: all but those of `left_out`."""
        return tuple(mode for mode in self.modes if (device, mode) not in self.left_out)

    def batches(self, task: "Task") -> tuple[int, ...]:
        """The batch sizes a task is timed at, ascending: those asked for, else 1 and its own (if quick, its own)."""
        own = _own_batch(task)
        return self.batch_sizes or ((own,) if self.quick else tuple(sorted({1, own})))

    def batch(self, task: "Task", *others: int) -> int:
        """The batch size at which a task's latency is reported: the task's own if it is timed, else the largest timed.

        Args:
            others: the batch sizes at which earlier parts of the run have reported it.
        """
        batches = (*self.batches(task), *others)
        return _own_batch(task) if _own_batch(task) in batches else max(batches)


def add_options(parser: pytest.Parser) -> None:
    """Add the benchmarks' options, all in one group of `pytest --help`."""
    group = parser.getgroup("bench", "benchmarks of head pruning (pytest bench)")
    several = "comma-separated; default: "
    group.addoption(
        "--task",
        action="append",
        metavar="NAME",
        help="reference task, or path.py:name for an object of your own; repeatable or comma-separated; "
        "default: the reference tasks that train their model; with --full also those whose model is installed",
    )
    group.addoption("--criteria", metavar="NAMES", help=f"how heads are chosen, {several}{','.join(CRITERIA)}")
    group.addoption("--keep", metavar="FRACTIONS", help=f"kept fractions in (0, 1], {several}0.75,0.5,0.25")
    group.addoption("--batch-sizes", metavar="SIZES", help=f"{several}1 and each task's own")
    group.addoption("--lengths", metavar="LENGTHS", help=f"sequence lengths, {several}each benchmark's own")
    group.addoption("--head-dims", metavar="WIDTHS", help=f"head widths of the bare layer, {several}64")
    group.addoption("--devices", metavar="NAMES", help=f"cpu, cuda, cuda:1, mps; {several}all there are")
    group.addoption("--dtypes", metavar="NAMES", help=f"{', '.join(DTYPES)}; {several}{USUAL['dtype']}")
    group.addoption("--modes", metavar="NAMES", help=f"{', '.join(MODES)} (torch.compile); {several}{USUAL['mode']}")
    group.addoption(
        "--repair",
        metavar="NAMES",
        help=f"{', '.join(REPAIRS)}: plans as they are, repaired, or chosen and repaired by shrink; {several}all "
        "three, shrink at the two smallest kept fractions only, and not with --quick",
    )
    group.addoption("--quick", action="store_true", help="one kept fraction, one batch size, few draws and rounds")
    group.addoption("--full", action="store_true", help="every dtype and mode that works here, and many rounds")
    group.addoption(
        "--accelerator", action="store_true", help="what a GPU needs minutes for: large sizes, each for a short time"
    )
    group.addoption(
        "--run", metavar="DIR", help="where results are written; default: runs/<time in UTC>; goes on there"
    )
    group.addoption(
        "--process",
        type=int,
        default=0,
        metavar="K",
        help="number of this process, from 0; what is timed is timed in each, for figures over several",
    )
    group.addoption(
        "--cluster",
        metavar="ADDRESS",
        help="measure on the workers of a dask scheduler, as tcp://127.0.0.1:8786, or local:N for N workers of our own "
        "on this machine (docs/cluster.md)",
    )
    group.addoption(
        "--on",
        metavar="NAME",
        help="with --cluster: what is timed needs this resource of a worker, too, as the name of an accelerator",
    )
    group.addoption("--command", metavar="TEXT", help="how to start this run again; default: this command line")


def settings_of(config: pytest.Config) -> RunSettings:
    """What the command line asks for, checked; the same object every time.

    Raises:
        pytest.UsageError: an option has a value that is wrong or not possible here; the message says what to give.
    """
    if _SETTINGS not in config.stash:
        config.stash[_SETTINGS] = _settings(config)
    return config.stash[_SETTINGS]


def run_directory(config: pytest.Config) -> Path:
    """The path that `--run` names, or else runs/<time of the first call>; nothing is made there."""
    from bench.measure.files import new_directory

    if config.option.run is None:
        config.option.run = str(new_directory())
    return Path(config.option.run)


def settle(config: pytest.Config, settings: RunSettings) -> None:
    """Make these the settings, whatever the command line says."""
    config.stash[_SETTINGS] = settings


class Capabilities(Protocol):
    """What can be measured: by default on this machine, as the functions of `bench.measure.capabilities` say it."""

    def devices(self) -> tuple[str, ...]: ...
    def device(self, word: str) -> str: ...
    def why_no_dtype(self, device: str, dtype: str) -> str | None: ...
    def why_not_by_itself(self, device: str, dtype: str) -> str | None: ...
    def why_no_mode(self, device: str, mode: str) -> str | None: ...


ELSEWHERE = pytest.StashKey[Capabilities]()  # of the machines that a run is measured on, where this is none of them
_SETTINGS = pytest.StashKey[RunSettings]()


def _settings(config: pytest.Config) -> RunSettings:
    """Check the options of the command line, and make settings of them.

    Raises:
        pytest.UsageError: an option has a value that is wrong, or not possible on this machine.
    """
    import mha
    from bench.measure import capabilities

    option = config.option
    _check_selection(option)
    name = preset_of(config)
    preset = PRESETS[name]
    sizes = {flag: several(flag, text, whole_number(example)) for flag, text, example in _sizes(option)}
    can = config.stash.get(ELSEWHERE, capabilities)
    devices = several("--devices", option.devices, can.device) or can.devices()
    dtypes = several("--dtypes", option.dtypes, one_of(DTYPES))
    modes = several("--modes", option.modes, one_of(MODES))
    no_dtype = can.why_no_dtype if dtypes else can.why_not_by_itself
    keep = several("--keep", option.keep, fraction) or preset.keep
    repair = several("--repair", option.repair, one_of(REPAIRS))
    left_out = capabilities.missing("--dtypes", devices, dtypes, preset.dtypes, no_dtype)
    left_out |= capabilities.missing("--modes", devices, modes, preset.modes, can.why_no_mode)
    return RunSettings(
        directory=_usable(run_directory(config)),
        criteria=several("--criteria", option.criteria, one_of((*mha.criteria(), "even"))) or CRITERIA,
        keep=keep,
        repair=repair or preset.repair,
        shrink_keep=keep if repair else tuple(sorted(keep, reverse=True)[-preset.shrunk :]),
        batch_sizes=tuple(sorted(sizes["--batch-sizes"])) or None,
        lengths=sizes["--lengths"] or None,
        head_dims=sizes["--head-dims"] or None,
        devices=devices,
        dtypes=dtypes or preset.dtypes,
        modes=modes or preset.modes,
        preset=name,
        process=_process(option.process),
        left_out=left_out,
        **_tasks(option.task, name),  # last: a file of the user's is run
    )


def _tasks(texts: Sequence[str] | None, preset: str) -> dict[str, Any]:
    """The fields `tasks`, `files` and `tasks_left_out` of `RunSettings`, from the texts given to `--task`, or None.

    The preset "accelerator" has no tasks of its own: training one takes longer than all that it measures.
    """
    from bench.settings.task_option import chosen_tasks, left_out_tasks

    if not texts and preset == "accelerator":
        return {"tasks": ()}
    full = preset == "full"
    chosen = chosen_tasks(texts, full=full)
    files = {each.task.name: each.file for each in chosen if each.file}
    tasks = tuple(each.task for each in chosen)
    return {"tasks": tasks, "files": files, "tasks_left_out": left_out_tasks(texts, full=full)}


def _check_selection(option: Any) -> None:
    """Refuse --benchmark-only and --benchmark-skip by a `pytest.UsageError`, which says how to select instead."""
    for name in SELECTING:
        if getattr(option, name, False):
            flag = "--" + name.replace("_", "-")
            raise pytest.UsageError(f"{flag}: latency is timed beside accuracy here; select with -k latency instead")


def _sizes(option: Any) -> tuple[tuple[str, str | None, str], ...]:
    """For --batch-sizes, --lengths and --head-dims: the flag, the text that was given, and an example for errors."""
    return (
        ("--batch-sizes", option.batch_sizes, "sizes, as 1,32"),
        ("--lengths", option.lengths, "lengths, as 64,256"),
        ("--head-dims", option.head_dims, "widths, as 32,64"),
    )


def preset_of(config: pytest.Config) -> str:
    """The name of the preset that the command line asks for; a `pytest.UsageError` if it asks for two."""
    option = config.option
    asked = [name for name in PRESETS if getattr(option, name, False)]
    if len(asked) > 1:
        flags = " and ".join(f"--{name}" for name in asked)
        raise pytest.UsageError(f"{flags} ask for different things; give one of them, or none")
    return asked[0] if asked else "default"


@naming("--process")
def _process(number: int) -> int:
    """The number that `--process` was given; a `pytest.UsageError` if it is negative."""
    if number < 0:
        raise ValueError(f"{number} is below 0; processes are counted from 0")
    return number


@naming("--run")
def _usable(directory: Path) -> Path:
    """The path given by `--run`; a `pytest.UsageError` if it is a file, or a directory with files and no run in it."""
    from bench.rundir.files import is_ours

    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a directory that is empty or does not exist yet")
    others = [path for path in directory.iterdir() if not is_ours(path)] if directory.is_dir() else []
    if others and not (directory / "environment.json").exists():
        raise ValueError(
            f"{directory} holds other files; give a run to go on with, or a directory that is empty or does not exist"
        )
    return directory


def _own_batch(task: "Task") -> int:
    """The task's attribute `batch_size`, or 32 if it has none."""
    return getattr(task, "batch_size", 32)
