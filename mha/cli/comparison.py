"""Two models side by side, each number with its interval: how good they are, how fast, and how large."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mha.cli.inputs import Inputs, described
from mha.cli.settings import note
from mha.costs.capture import CallArguments
from mha.costs.in_runtime import InRuntime
from mha.pruning.masking import eval_mode
from mha.tasks import Task
from mha.timing.rounds import Rounds
from mha.values.errors import CalibrationError

RESAMPLES, TAIL = 2000, 0.025
FEWEST, MOST = 8, 400  # rounds of timing


@dataclass(frozen=True)
class Interval:
    """A value, and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Judged:
    """How good the two models are on the evaluation examples.

    Attributes:
        metric: what it is called.
        dense, small: of each model.
        difference: small - dense, paired: the bootstrap draws the same examples for both.
        examples: how many there are.
        points: whether it lies between 0 and 1, so that differences are told in points, hundredths.
    """

    metric: str
    dense: float
    small: float
    difference: Interval
    examples: int
    points: bool

    def sentence(self) -> str:
        """As "accuracy 0.402 (dense 0.406, difference −0.4 points, 95 % −2.1 to +1.3)"."""
        change = self.difference
        unit, scale = (" points", 100) if self.points else ("", 1)
        value, low, high = (signed(scale * number, self.points) for number in (change.value, change.low, change.high))
        return (
            f"{self.metric} {number(self.small)} (dense {number(self.dense)}, difference {value}{unit}, "
            f"95 % {low} to {high})"
        )


@dataclass(frozen=True)
class Timed:
    """How fast the two models are, timed in turns.

    Attributes:
        times_as_fast: the dense model's seconds over the small one's, by round.
        dense, small: the median seconds of a call.
        batch, tokens: of the inputs; None where they are not known.
        device: on which, and in which runtime, if not in torch.
        rounds: how many were taken.
    """

    times_as_fast: Interval
    dense: float
    small: float
    batch: int | None
    tokens: int | None
    device: str
    rounds: int

    def sentence(self) -> str:
        """As "1.21 times as fast (95 % 1.15 to 1.26) at batch 32 × 64 tokens on this CPU"."""
        ratio = self.times_as_fast
        batch = "" if self.batch is None else f" at batch {self.batch}"
        tokens = "" if self.tokens is None else f" × {self.tokens} tokens"
        return (
            f"{ratio.value:.2f} times as fast (95 % {ratio.low:.2f} to {ratio.high:.2f}){batch}{tokens} on "
            f"{self.device}"
        )


def judged(task: Task, dense: nn.Module, small: nn.Module, seed: int = 0) -> Judged:
    """Both models on the task's evaluation examples, with the interval of the difference.

    Raises:
        CalibrationError: the task gives no values, or not as many for both models.
    """
    values = []
    for name, model in (("the model", dense), ("the smaller model", small)):
        note(f"evaluating {name}")
        with eval_mode(model), torch.no_grad():
            values.append(np.asarray(task.evaluate(model), dtype=np.float64))
    before, after = values
    if before.shape != after.shape or not len(before):
        raise CalibrationError(
            f"task {task.name}: evaluate gave values of shape {before.shape} for the dense model and {after.shape} for "
            "the smaller one; expected as many for both, a row for each example"
        )
    bounded = getattr(task, "bounds", None) == (0, 1)
    return Judged(
        metric=task.metric,
        dense=float(task.aggregate(before)),
        small=float(task.aggregate(after)),
        difference=_difference(task, before, after, seed),
        examples=len(before),
        points=bounded or (before.ndim == 1 and all(((one == 0) | (one == 1)).all() for one in values)),
    )


def _difference(task: Task, before: Any, after: Any, seed: int) -> Interval:
    """The metric of `after` less that of `before`, with the paired bootstrap's 95 % interval (percentiles)."""
    value = float(task.aggregate(after) - task.aggregate(before))
    generator = np.random.default_rng(seed)
    draws = np.empty(RESAMPLES)
    for place in range(RESAMPLES):
        rows = generator.integers(len(before), size=len(before))
        draws[place] = task.aggregate(after[rows]) - task.aggregate(before[rows])
    low, high = np.quantile(draws, [TAIL, 1 - TAIL])
    return Interval(value, float(low), float(high))


def timed(
    dense: nn.Module, small: nn.Module, inputs: Inputs, device: torch.device, seconds: float, runtime: str | None = None
) -> Timed:
    """Both models called with the same inputs, in turns, for so many seconds; 8 rounds are taken even if slower.

    Args:
        runtime: a format into which both are exported, to be timed there on the CPU; None for torch as it is.
    """
    where = "" if runtime is None else f" in {runtime}"
    note(f"timing both models in turns{where}, for {seconds:g} s")
    args, kwargs = inputs
    rounds = Rounds(device)
    with ExitStack() as open_, eval_mode(dense), eval_mode(small):
        there = None if runtime is None else open_.enter_context(InRuntime(runtime))
        for name, model in (("dense", dense), ("small", small)):
            if there is None:
                rounds.add(name, lambda model=model: lambda: model(*args, **kwargs))  # type: ignore[misc]
            else:
                rounds.add(name, there.readied(model, CallArguments(args, kwargs)))
        open_.enter_context(torch.inference_mode())
        rounds.until(seconds=seconds, fewest=FEWEST, most=MOST, watched=[("small", "dense")])
    ratio = rounds.ratio("dense", "small")
    batch, tokens = described(inputs)
    return Timed(
        times_as_fast=Interval(ratio.value, ratio.low, ratio.high),
        dense=rounds.seconds("dense").value,
        small=rounds.seconds("small").value,
        batch=batch,
        tokens=tokens,
        device=name_of(device) if there is None else f"{name_of(device)} in {there.version}",
        rounds=rounds.count,
    )


def name_of(device: torch.device) -> str:
    """What a reader calls the device."""
    if device.type == "cpu":
        return "this CPU"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def megabytes(model: nn.Module) -> float:
    """The memory of the model's parameters, in MB (10⁶ bytes)."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6


def number(value: float) -> str:
    """A metric as a reader writes it: three decimals below 10, else four digits."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.4g}"


def signed(value: float, points: bool) -> str:
    """A difference with its sign, in tenths of a point or with three digits."""
    text = f"{value:+.1f}" if points else f"{value:+.3g}"
    return text.replace("-", "−")


def as_document(part: Any) -> Mapping[str, Any] | None:
    """A `Judged` or `Timed` for JSON; None as it is."""
    return None if part is None else asdict(part)
