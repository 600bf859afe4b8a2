"""The repairs that a run measures beside raw plans: each makes a model, and says what that took."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

import mha
from bench.measure.memory import with_peak
from bench.measure.threads import one_thread
from bench.rundir.description import VALUES
from mha.tasks import Task

RAW, COMPENSATE, SHRINK = VALUES["repair"]


class Made(NamedTuple):
    """A repaired model, and what it took to make it from the trained one, on one thread.

    Attributes:
        seconds: of CPU time; with the scoring of heads where the repair chooses them itself.
        peak_bytes: by which memory grew at most; None where the system does not say.
    """

    model: nn.Module
    seconds: float
    peak_bytes: int | None


def compensated(task: Task, dense: nn.Module, pruned: nn.Module, batches: Sequence[Any]) -> Made:
    """The pruned model repaired on the calibration batches (`mha.compensate`); both models are left as they were."""
    return _made(lambda: mha.compensate(pruned, dense, batches, task.forward))


def shrunk(task: Task, dense: nn.Module, batches: Sequence[Any], keep: float) -> Made:
    """A model that keeps this share of the dense one's heads, which `mha.shrink` chooses itself, repaired likewise."""
    return _made(
        lambda: mha.shrink(dense, batches, task.loss, task.forward, keep=keep, distance=getattr(task, "distance", None))
    )


def _made(make: Callable[[], nn.Module]) -> Made:
    """Make a model on one thread, watching the time and the memory that it takes."""
    with one_thread():
        start = time.process_time()
        model, peak = with_peak(make)
        return Made(model, time.process_time() - start, peak)
