"""A short recovery training: the pruned model learns from the dense one's outputs (Hinton et al. 2015)."""

import copy
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
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

Distance = Callable[[Any, Any], Tensor]  # (what forward returns, what it returns for the dense model) -> scalar
HELD_OUT = 4  # every fourth batch may tell whether the training has helped
JUDGES = 6  # of those so many do, or fewer
CHECKS = 8  # how often that is asked on the way
PATIENCE = 3  # how often in a row the answer may be no
SLOWER = 1 / 3  # by which learning rates are multiplied when it is
WARM_UP = 0.05  # share of the training in which the learning rate rises
WHOLE = 100.0  # units of the bar that the training is counted as


def distill(
    pruned: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    forward: Forward,
    *,
    steps: int | None = None,
    seconds: float | str | None = None,
    learning_rate: float = 1e-4,
    distance: Distance | None = None,
    optimizer: Optimizer | None = None,
    progress: bool | None = None,
) -> nn.Module:
    """A copy of `pruned`, trained for a few steps to put out what `teacher` does; no labels are needed.

    All trainable parameters are trained in evaluation mode (without dropout), a batch per step in an order that is
    always the same, the learning rate rising for a twentieth of the training and then falling to 0 along a line. Every
    fourth batch is held out, and now and then the distance to the teacher is measured on some of those: when it is no
    smaller than the smallest so far, the training goes back to that point and on at a third of the learning rate, and
    ends when that has not helped three times in a row. The copy is the one that was closest, and `pruned` as it was if
    none was closer than that. With `steps` nothing is random; how many steps fit into `seconds` is. Both models are
    left as they were, also after an error.

    Train on other batches than those that `compensate` fitted to, which the model fits better than it does others.

    Args:
        batches: read once, and held.
        forward: (model, batch) runs the model and returns what matters of its output.
        steps: how many steps are taken at most; where there are fewer batches, they are seen several times. 100,
            unless `seconds` are given.
        seconds: how long it may take, as a number or as "90s", "5min" or "1h".
        learning_rate: of AdamW.
        distance: (what forward returns for the copy, what it returns for the teacher) -> scalar, the mean over
            examples, say a KL divergence of logits. By default the mean squared error of every floating tensor, as a
            share of the teacher's mean square.
        optimizer: one that trained the teacher: a slice of it (`slice_optimizer`) trains the copy at its own
            learning rates, in place of a new AdamW.
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.

    Raises:
        CalibrationError: no batches, fewer than 1 step, both steps and seconds or a time that can't be read, or a
            distance that is not a finite scalar with a gradient.
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
    schedule = _schedule(steps, seconds)
    fit = [batch for number, batch in enumerate(calibration) if number % HELD_OUT != HELD_OUT - 1]
    held = calibration[HELD_OUT - 1 :: HELD_OUT] or calibration
    judge = held[:: -(-len(held) // JUDGES)]
    with locked(pruned, teacher, by="mha.distill", draws=True), torch.inference_mode(False):
        bar = Bar("distill", progress)
        bar.expect(WHOLE)
        model = copy.deepcopy(usable(pruned))
        measure = _Measure(usable(teacher), forward, distance or relative_error, bar)
        with at_rest(teacher, model), bar.shown():
            best = _Best(model, lambda: measure.mean(model, judge))
            training = _optimizer(model, teacher, optimizer, learning_rate)
            schedule.begin()
            _train(model, fit, measure, schedule, training, best, bar)
        if not best.improved:
            return copy.deepcopy(pruned)
        model.load_state_dict(best.state)
        return model


def seconds_in(time_given: float | str) -> float:
    """The seconds in a number of them, or in a text such as "90s", "5min" or "1h".

    Raises:
        CalibrationError: it can't be read, or is not above 0.
    """
    units = {"s": 1.0, "min": 60.0, "h": 3600.0}
    match = re.fullmatch(r"\s*([0-9.]+)\s*(s|min|h)\s*", time_given) if isinstance(time_given, str) else None
    try:
        seconds = float(match[1]) * units[match[2]] if match else float(time_given)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise CalibrationError(f'expected a time such as 30, "90s", "5min" or "1h", got {time_given!r}')
    return seconds


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
            return sum(self(model, batch).item() for batch in batches) / len(batches)


def _optimizer(model: nn.Module, teacher: nn.Module, of_teacher: Optimizer | None, learning_rate: float) -> Optimizer:
    """A slice of the teacher's optimizer, if `of_teacher` is one; else a new AdamW of this learning rate.

    The new one changes the model's trainable parameters.
    """
    if of_teacher is not None:
        return slice_optimizer(of_teacher, teacher, model)
    return AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], learning_rate)


def _schedule(steps: int | None, seconds: float | str | None) -> "_Schedule":
    """How long to train.

    Raises:
        CalibrationError: fewer than 1 step, both, or a time that can't be read.
    """
    if steps is not None and seconds is not None:
        raise CalibrationError(f"expected steps or seconds, got both: {steps!r} and {seconds!r}")
    if seconds is not None:
        return _Schedule(None, seconds_in(seconds))
    steps = 100 if steps is None else steps
    if steps < 1:
        raise CalibrationError(f"steps must be at least 1, got {steps}")
    return _Schedule(steps, None)


@dataclass
class _Schedule:
    """How far a training has come, of a number of steps or of seconds.

    Attributes:
        steps, seconds: one of which is given.
        step: how many steps have been taken.
        began: when the first did.
    """

    steps: int | None
    seconds: float | None
    step: int = 0
    began: float = field(default=0.0)

    def begin(self) -> None:
        """The training begins now."""
        self.began = time.perf_counter()

    @property
    def share(self) -> float:
        """The share of the training that is over, from 0 to 1."""
        if self.steps is not None:
            return self.step / self.steps
        assert self.seconds is not None
        return min((time.perf_counter() - self.began) / self.seconds, 1.0)

    def factor(self) -> float:
        """What the learning rates are multiplied by in the step that comes."""
        share = self.share
        rise = 1.0 if self.steps is not None and self.steps * WARM_UP < 1 else min((share + 0.01) / WARM_UP, 1.0)
        return rise * (1 - share)


class _Best:
    """The state in which a model was closest to the teacher.

    Args:
        model: as it is now, to be trained.
        judge: how far it is from the teacher, as it is when called.

    Attributes:
        state: the closest one's parameters and buffers.
        improved: whether that one was closer than the first.
        worse: how often in a row no closer one was found.
    """

    def __init__(self, model: nn.Module, judge: Callable[[], float]) -> None:
        self._model, self._judge = model, judge
        self._least = judge()
        self.state: dict[str, Any] = copy.deepcopy(model.state_dict())
        self.improved, self.worse = False, 0

    def look(self) -> bool:
        """Judge the model as it is now; where it is no closer than the closest, put it back there and return False."""
        distance = self._judge()
        if distance < self._least:
            self._least, self.state = distance, copy.deepcopy(self._model.state_dict())
            self.improved, self.worse = True, 0
            return True
        self._model.load_state_dict(self.state)
        self.worse += 1
        return False


def _train(
    model: nn.Module,
    batches: Sequence[Any],
    measure: _Measure,
    schedule: _Schedule,
    optimizer: Optimizer,
    best: _Best,
    bar: Bar,
) -> None:
    """Train the model in place, a batch per step, until the schedule is over or training on does not help.

    Raises:
        CalibrationError: the distance has no gradient, or is no finite scalar tensor.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0)).tolist()
    looks = 0
    while schedule.share < 1:
        bar.doing("training")
        done = schedule.share
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule.factor()
        _step(model, batches[order[schedule.step % len(batches)]], measure, optimizer)
        schedule.step += 1
        bar.advance(WHOLE * (schedule.share - done))
        if schedule.share * CHECKS >= looks + 1:
            looks = int(schedule.share * CHECKS)
            if not best.look():
                rates = [rate * SLOWER for rate in rates]
            if best.worse == PATIENCE:
                break
    optimizer.zero_grad()


@torch.enable_grad()
def _step(model: nn.Module, batch: Any, measure: _Measure, optimizer: Optimizer) -> None:
    """One step of the training, on one batch.

    Raises:
        CalibrationError: the distance has no gradient, or is no finite scalar tensor.
    """
    optimizer.zero_grad()
    value = measure(model, batch)
    if not value.requires_grad:
        raise CalibrationError(
            "the distance to the teacher has no gradient: forward must return something differentiable, and "
            "the model must have trainable parameters"
        )
    value.backward()
    optimizer.step()
