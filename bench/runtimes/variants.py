"""The models that are taken to every runtime: dense, pruned and repaired, and a smaller one trained from scratch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

import mha
from bench.models.experiment import Experiment
from bench.models.repairs import SHRINK
from bench.tasks.smollm import SmolLM, SmolSettings
from mha.tasks import Task

DENSE, PRUNED, SMALL = "dense", "pruned", "trained small"
HEADS = "heads", "num_heads"  # of a layer, as settings of tasks that are trained here call it


@dataclass(frozen=True)
class Variant:
    """A model of a task.

    Attributes:
        kind: DENSE, PRUNED or SMALL.
        kept_fraction: heads as a share of the dense model's.
        heads, total: how many heads it has, and the dense model.
    """

    kind: str
    kept_fraction: float
    heads: int
    total: int
    model: nn.Module

    @property
    def name(self) -> str:
        """What a reader calls it, as "pruned to 50 %"."""
        if self.kind == DENSE:
            return DENSE
        joined = "to" if self.kind == PRUNED else "with"
        return f"{self.kind} {joined} {100 * self.kept_fraction:.0f} %"


def lightened(task: Task, evaluated: int | None, calibrated: int | None) -> Task:
    """The task, with fewer sequences to judge and to repair by, if it is the language model's and they are given."""
    if not isinstance(task, SmolLM) or (evaluated is None and calibrated is None):
        return task
    usual = SmolSettings()
    return SmolLM(SmolSettings(evaluation=evaluated or usual.evaluation, calibration=calibrated or usual.calibration))


def variants(task: Task, experiment: Experiment, keep: Sequence[float]) -> Iterator[Variant]:
    """Yield the dense model, those that `mha.shrink` makes at these shares, and a smaller one trained from scratch.

    The last is there for tasks whose models are trained here; it has the least share of the heads in every layer.
    """
    total = _heads(experiment.model())
    yield Variant(DENSE, 1.0, total, total, experiment.model())
    for share in sorted(keep, reverse=True):
        small = experiment.small(SHRINK, share, SHRINK)
        yield Variant(PRUNED, share, _heads(small), total, small)
    if keep and (rival := _from_scratch(task, min(keep))) is not None:
        yield Variant(SMALL, _heads(rival) / total, _heads(rival), total, rival)


def _from_scratch(task: Task, share: float) -> nn.Module | None:
    """A model like the task's, trained as that is, with this share of the heads in every layer; None if it has none."""
    settings: Any = getattr(task, "settings", None)
    field = next((name for name in HEADS if hasattr(settings, name)), None)
    if field is None:
        return None
    kind: Any = type(task)
    rival: nn.Module = kind(replace(settings, **{field: round(share * getattr(settings, field))})).model()
    return rival.eval()


def _heads(model: nn.Module) -> int:
    return sum(layer.num_heads for layer in mha.find_attention(model).values())
