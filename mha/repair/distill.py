"""A short recovery training: the pruned model learns from the dense one's outputs (Hinton et al. 2015)."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from mha.pruning.equivalence import tensors_in
from mha.pruning.masking import at_rest
from mha.pruning.optimizer import slice_optimizer
from mha.repair.observe import Forward, held_batches
from mha.runtime.inference_tensors import usable
from mha.runtime.locking import locked
from mha.runtime.progress import Bar
from mha.values.errors import CalibrationError

Distance = Callable[[Any, Any], Tensor]
HELD_OUT = 4  # every fourth batch tells whether the training has helped
JUDGING = 0.5  # how long judging on a batch takes, as a share of a step, which computes gradients


def distill(
    pruned: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    forward: Forward,
    *,
    steps: int = 100,
    learning_rate: float = 1e-4,
    distance: Distance | None = None,
    optimizer: Optimizer | None = None,
    progress: bool | None = None,
) -> nn.Module:
    """A copy of `pruned`, trained for a few steps to put out what `teacher` does; no labels are needed.

    All trainable parameters are trained in evaluation mode (without dropout), a batch per step, the learning rate
    falling to 0 along a line. Every fourth batch is held out: if the copy is not closer to the teacher on those than
    `pruned` is, it is returned as it was. Nothing is random. Both models are left as they were, also after an error.

    Args:
        batches: read once, and held.
        forward: (model, batch) runs the model and returns what matters of its output.
        steps: how many steps are taken; where there are fewer batches, they are seen several times.
        learning_rate: of AdamW.
        distance: (what forward returns for the copy, what it returns for the teacher) -> scalar, the mean over
            examples, say a KL divergence of logits. By default the mean squared error of every floating tensor, as a
            share of the teacher's mean square.
        optimizer: one that trained the teacher: a slice of it (`slice_optimizer`) trains the copy at its own
            learning rates, in place of a new AdamW.
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.

    Raises:
        CalibrationError: no batches, fewer than 1 step, or a distance that is not a finite scalar with a gradient.
        BusyError: another thread has one of the models, and waiting for it would not end.

    Example:
        >>> teacher = nn.ModuleDict({"attention": mha.MultiHeadAttention.square(8, 4)})
        >>> def forward(model, x):
        ...     return model["attention"](x, x, x)
        >>> batches = [torch.randn(16, 5, 8) for _ in range(4)]
        >>> pruned = mha.prune(teacher, mha.HeadPlan({"attention": (0, 1, 3)}))
        >>> trained = mha.distill(pruned, teacher, batches, forward, steps=5, progress=False)
        >>> mha.plan_of(trained)
        HeadPlan({'attention': (0, 1, 3)})
    """
    calibration = held_batches(batches)
    if steps < 1:
        raise CalibrationError(f"steps must be at least 1, got {steps}")
    fit = [batch for number, batch in enumerate(calibration) if number % HELD_OUT != HELD_OUT - 1]
    judge = calibration[HELD_OUT - 1 :: HELD_OUT] or calibration
    with locked(pruned, teacher, by="mha.distill", draws=True), torch.inference_mode(False):
        bar = Bar("distill", progress)
        bar.expect(steps + 2 * len(judge) * JUDGING)
        model = copy.deepcopy(usable(pruned))
        measure = _Measure(usable(teacher), forward, distance or relative_error, bar)
        with at_rest(teacher, model), bar.shown():
            before = measure.mean(model, judge)
            _train(model, fit, measure, steps, _optimizer(model, teacher, optimizer, learning_rate), bar)
            closer = measure.mean(model, judge) < before
        return model if closer else copy.deepcopy(pruned)


def relative_error(output: Any, wanted: Any) -> Tensor:
    """The error mean |output - wanted|² / mean |wanted|², added up over all floating tensors in both; a scalar.

    Raises:
        CalibrationError: there is no floating tensor in them.
        ValueError: one holds more floating tensors than the other.
    """
    pairs = zip(tensors_in(output).values(), tensors_in(wanted).values(), strict=True)
    errors = [(ours - dense).square().mean() / dense.square().mean().clamp_min(1e-12) for ours, dense in pairs]
    if not errors:
        raise CalibrationError("forward returned no floating tensor that could be compared")
    return torch.stack(errors).sum()


class _Measure:
    """Called with a model and a batch, returns the model's distance to the teacher: a scalar, with its gradient.

    Raises:
        CalibrationError: (the call) the distance is no finite scalar tensor.
    """

    def __init__(self, teacher: nn.Module, forward: Forward, distance: Distance, bar: Bar) -> None:
        self._teacher, self._forward, self._distance, self._bar = teacher, forward, distance, bar

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = self._forward(self._teacher, batch)
        value = self._distance(self._forward(model, batch), wanted)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.isfinite():
            raise CalibrationError(f"the distance to the teacher must be a finite scalar tensor, got {value!r}")
        return value

    def mean(self, model: nn.Module, batches: Sequence[Any]) -> float:
        """The model's mean distance to the teacher over the batches, without gradients."""
        self._bar.doing("judging on held-out batches")
        with torch.no_grad():
            return sum(self(model, batch).item() for batch in self._bar.over(batches, JUDGING)) / len(batches)


def _optimizer(model: nn.Module, teacher: nn.Module, of_teacher: Optimizer | None, learning_rate: float) -> Optimizer:
    """A slice of the teacher's optimizer, if `of_teacher` is one; else a new AdamW of this learning rate.

    The new one changes the model's trainable parameters.
    """
    if of_teacher is not None:
        return slice_optimizer(of_teacher, teacher, model)
    return AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], learning_rate)


def _train(
    model: nn.Module, batches: Sequence[Any], measure: _Measure, steps: int, optimizer: Optimizer, bar: Bar
) -> None:
    """Train the model in place, a batch per step, the learning rates falling to 0 along a line.

    Raises:
        CalibrationError: the distance has no gradient, or is no finite scalar tensor.
    """
    bar.doing("training")
    rates = [group["lr"] for group in optimizer.param_groups]
    with torch.enable_grad():
        for step in bar.over(range(steps)):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad()
            value = measure(model, batches[step % len(batches)])
            if not value.requires_grad:
                raise CalibrationError(
                    "the distance to the teacher has no gradient: forward must return something differentiable, and "
                    "the model must have trainable parameters"
                )
            value.backward()
            optimizer.step()
    optimizer.zero_grad()
