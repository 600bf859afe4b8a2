"""What a run consists of: the variants of each task's model, and where each is timed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product

from bench.models.experiment import DENSE, NONE
from bench.models.latency import Place
from bench.settings.options import Settings
from mha.tasks import Task


@dataclass(frozen=True)
class Variant:
    """One way to choose which heads of a task's model stay."""

    task: str
    criterion: str
    keep: float
    draw: int = 0
    draws: int = 1

    def __str__(self) -> str:
        whole = self.criterion in (DENSE, NONE)
        return f"{self.task}-{self.criterion}" + ("" if whole else f"-keep{self.keep:g}")

    @property
    def plan(self) -> str:
        """The name of its plan in the run directory."""
        return str(self) if self.criterion in (DENSE, NONE) else f"{self}-{self.draw}"

    @property
    def id(self) -> str:
        return f"{self}-draw{self.draw}" if self.draws > 1 else str(self)

    def record(self) -> dict[str, object]:
        """Its columns in the run directory."""
        return {"task": self.task, "criterion": self.criterion, "plan": self.plan, "kept_fraction": self.keep}


@dataclass(frozen=True)
class Timed:
    """A variant, and where it is timed."""

    variant: Variant
    place: Place

    @property
    def id(self) -> str:
        return f"{self.variant}-{self.place.id}"

    def record(self) -> dict[str, object]:
        """What is known of the case before it runs."""
        return {"case": self.id, "kind": "pruning", **self.variant.record(), **asdict(self.place)}


def variants(settings: Settings) -> Iterator[Variant]:
    """Everything whose accuracy is measured: for each task the dense model, none, and every draw of every plan."""
    for task in settings.tasks:
        yield Variant(task.name, DENSE, 1.0)
        yield from _pruned(settings, task, draws=True)


def timed(settings: Settings) -> Iterator[Timed]:
    """Everything whose latency is measured, beside the dense model: of drawn plans the first."""
    for task in settings.tasks:
        for place in _places(settings, task):
            for variant in _pruned(settings, task, draws=False):
                yield Timed(variant, place)


def _places(settings: Settings, task: Task) -> Iterator[Place]:
    """Every size on every device; other dtypes and modes only at the batch size that is reported."""
    for device in settings.devices:
        dtypes, modes = settings.dtypes_on(device), settings.modes_on(device)
        for batch, dtype, mode in product(settings.batches(task), dtypes, modes):
            if (dtype, mode) == (dtypes[0], modes[0]) or batch == settings.batch(task):
                yield from (Place(batch, device, dtype, mode, length=length) for length in settings.lengths or (None,))


def _pruned(settings: Settings, task: Task, *, draws: bool) -> Iterator[Variant]:
    yield Variant(task.name, NONE, 0.0)
    for criterion in settings.criteria:
        count = settings.draws(criterion) if draws else 1
        for keep in settings.keep:
            for draw in range(count):
                yield Variant(task.name, criterion, keep, draw, count)
