"""What a run consists of: the variants of each task's model, and where each is timed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product

from bench.models.experiment import DENSE, NONE
from bench.models.latency import Place
from bench.models.repairs import COMPENSATE, RAW, SHRINK
from bench.settings.options import RunSettings
from mha.tasks import Task


@dataclass(frozen=True)
class ModelVariant:
    """A task's model with some of its heads: the task's name, and how the heads that stay are chosen.

    Attributes:
        keep: share of the heads that stays.
        draw, draws: the plan is number `draw`, from 0, of `draws` that are made with this criterion and share.
        repair: what is done to the pruned model, one of the axis `repair` of the run directory.
    """

    task: str
    criterion: str
    keep: float
    draw: int = 0
    draws: int = 1
    repair: str = RAW

    def __str__(self) -> str:
        share = [] if self.criterion in (DENSE, NONE) else [f"keep{self.keep:g}"]
        repair = [] if self.repair in (RAW, self.criterion) else [self.repair]
        return "-".join([self.task, self.criterion, *share, *repair])

    @property
    def plan(self) -> str:
        """The name of the variant's plan in the run directory, as digits-taylor-keep0.5-0, the draw at its end."""
        return str(self) if self.criterion in (DENSE, NONE) else f"{self}-{self.draw}"

    @property
    def id(self) -> str:
        """The name of the variant in pytest, as digits-taylor-keep0.5, and -draw3 if there are several draws."""
        return f"{self}-draw{self.draw}" if self.draws > 1 else str(self)

    def record(self) -> dict[str, object]:
        """Field -> value, as in records of plans and cases: task, criterion, the plan's name, kept fraction, repair."""
        return {
            "task": self.task, "criterion": self.criterion, "plan": self.plan, "kept_fraction": self.keep,
            "repair": self.repair,
        }  # fmt: skip


@dataclass(frozen=True)
class LatencyCase:
    """A variant of a task's model, timed at one `Place` beside the dense model."""

    variant: ModelVariant
    place: Place

    @property
    def id(self) -> str:
        """The case's name, in pytest and in the run directory, as digits-taylor-keep0.5-b32-cpu; it has no draw."""
        return f"{self.variant}-{self.place.id}"

    def record(self) -> dict[str, object]:
        """Field of the case's record in `cases/` -> value, for what is known before the case is measured."""
        return {"case": self.id, "kind": "pruning", **self.variant.record(), **asdict(self.place)}


def shown_criterion(settings: RunSettings) -> str:
    """The criterion whose plans are shown where those of one must do: leave_one_out, or else the first asked for."""
    return "leave_one_out" if "leave_one_out" in settings.criteria else settings.criteria[0]


def model_variants(settings: RunSettings) -> Iterator[ModelVariant]:
    """Yield every raw model whose accuracy is measured: dense, without heads, each draw of each criterion and share."""
    for task in settings.tasks:
        yield ModelVariant(task.name, DENSE, 1.0)
        yield from _pruned(settings, task, draws=True)


def repaired_variants(settings: RunSettings) -> Iterator[ModelVariant]:
    """Yield every repaired model whose accuracy is measured."""
    for task in settings.tasks:
        yield from _repaired(settings, task)


def latency_cases(settings: RunSettings) -> Iterator[LatencyCase]:
    """Yield every case whose latency is measured; of a criterion and share with several draws, the first draw only."""
    for task in settings.tasks:
        for place in _places(settings, task):
            for variant in (*_pruned(settings, task, draws=False), *_repaired(settings, task)):
                yield LatencyCase(variant, place)


def _places(settings: RunSettings, task: Task) -> Iterator[Place]:
    """Yield where a task is timed: on each device at each batch size and length.

    Only at the batch size that is reported (`RunSettings.batch`) all dtypes and modes are timed, elsewhere the first.
    """
    for device in settings.devices:
        dtypes, modes = settings.dtypes_on(device), settings.modes_on(device)
        for batch, dtype, mode in product(settings.batches(task), dtypes, modes):
            if (dtype, mode) == (dtypes[0], modes[0]) or batch == settings.batch(task):
                yield from (Place(batch, device, dtype, mode, length=length) for length in settings.lengths or (None,))


def _pruned(settings: RunSettings, task: Task, *, draws: bool) -> Iterator[ModelVariant]:
    """Yield the model without heads, then each criterion at each share: every draw with `draws`, else the first."""
    yield ModelVariant(task.name, NONE, 0.0)
    for criterion in settings.criteria if RAW in settings.repair else ():
        count = settings.draws(criterion) if draws else 1
        for keep in settings.keep:
            for draw in range(count):
                yield ModelVariant(task.name, criterion, keep, draw, count)


def _repaired(settings: RunSettings, task: Task) -> Iterator[ModelVariant]:
    """Yield the plans of the criterion that is repaired, compensated, at each share; then what is shrunk."""
    if COMPENSATE in settings.repair and settings.repaired:
        for keep in settings.keep:
            yield ModelVariant(task.name, settings.repaired, keep, repair=COMPENSATE)
    if SHRINK in settings.repair:
        yield from (ModelVariant(task.name, SHRINK, keep, repair=SHRINK) for keep in settings.shrink_keep)
