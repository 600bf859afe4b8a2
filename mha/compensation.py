"""Repair after pruning, from unlabelled calibration data: linear layers of what is left are fitted again.

Layer by layer in the order in which they run, with the pruned and already repaired layers in front, each is brought
close to what it does in the dense model. Nothing is trained.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mha.errors import CalibrationError, PlanError, UnsupportedModule
from mha.families import AttentionLayer, find_attention
from mha.families.linears import is_conv1d, weight_of
from mha.layout import owners
from mha.masking import eval_mode
from mha.normal_equations import Moments, recentre, refit, rescale
from mha.streams import Forward, Goal, calling_outputs, goals_of, is_linear, other_linears, output_name, runs_of

Method = Literal["bias", "scale", "least_squares"]
Scope = Literal["attention", "stream"]
METHODS: tuple[Method, ...] = ("bias", "scale", "least_squares")
SCOPES = ("attention", "stream")
HELD_OUT = 4  # every fourth batch chooses the damping


def compensate(
    pruned: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    forward: Forward,
    method: Method = "least_squares",
    *,
    scope: Scope = "stream",
) -> nn.Module:
    """A copy of `pruned` that comes closer to `teacher`, the model it was pruned from; without labels or training.

    Methods, each for one layer after the other, from the first pruned one on:

    - "bias": the mean of what the layer lacks goes into the output projection's bias (An et al. 2023, FLAP, 3.3).
    - "scale": one factor per head, by least squares (Kwon et al. 2022, section 4.3).
    - "least_squares": W_o and its bias, by least squares toward the dense layer's outputs; or, where the output is
      added to a residual stream, toward what the stream holds after the dense layer, which makes up for what earlier
      layers left undone. Damped toward the present W_o, by as much as serves held-out batches (every fourth) best.

    Positions count as much as what `forward` returns depends on them: padding that is masked in the end does not.
    A layer without heads gets a new bias. A projection without a bias stays without one, so that the result
    is saved and loaded like any pruned model.

    Both models run in eval mode, and are left as they were, also after an error. What the stream holds after each
    fitted layer is kept in memory: for float32 4 bytes x positions x width x layers.

    Args:
        batches: read once, and held; labels are not needed.
        forward: (model, batch) runs the model and returns what matters of its output.
        scope: what least squares may fit: "attention", the output projections, or "stream", also every other linear
            layer that writes to the residual stream, such as the second one of a feed-forward network.

    Raises:
        CalibrationError: an unknown method or scope, no batches, NaN or infinity, or a `forward` that does not run both
            models alike.
        PlanError: the models do not belong together: other layers, or heads that the teacher does not have.
        UnsupportedModule: an output projection that is no plain linear layer.
    """
    for given, known in ((method, METHODS), (scope, SCOPES)):
        if given not in known:
            raise CalibrationError(f"expected one of {', '.join(known)}, got {given!r}")
    held = list(batches or ())
    if not held:
        raise CalibrationError("the calibration set is empty: expected at least one batch")
    repaired = copy.deepcopy(pruned)
    students, teachers = find_attention(repaired), find_attention(teacher)
    _check_belong(students, teachers)
    layers = {output_name(layer): layer for layer in students.values()}
    cut = [name for name, layer in layers.items() if layer.num_heads < teachers[layer.name].num_heads]
    own = method != "least_squares"
    others = [] if own or scope == "attention" else _shared(other_linears(teacher, teachers), repaired, teacher)
    with torch.random.fork_rng(), eval_mode(teacher), eval_mode(repaired):
        with calling_outputs(teachers):
            goals = goals_of(teacher, list(layers), others, held, forward, first=cut, own=own)
        with torch.no_grad(), calling_outputs(students):
            for name in list(goals):
                _Repair(name, layers.get(name), goals.pop(name), repaired, method).run(held, forward)
    return repaired


class _Repair:
    """One linear layer to be fitted again.

    Args:
        layer: the attention layer whose output projection it is, if it is one.
    """

    def __init__(self, name: str, layer: AttentionLayer | None, goal: Goal, model: nn.Module, method: Method) -> None:
        self.name = name
        self.linear = model.get_submodule(name)
        self._layer, self._goal, self._model, self._method = layer, goal, model, method

    def run(self, batches: Sequence[Any], forward: Forward) -> None:
        fit, held = self._moments(batches, forward)
        if not (fit + held).n > 0:  # nothing that forward returns depends on the layer
            return
        bias = self.linear._parameters.get("bias")
        weight, shift = self._solution(fit, held, weight_of(self.linear), None if bias is None else bias.double())
        self.linear.get_parameter("weight").copy_(weight.T if is_conv1d(self.linear) else weight)
        if bias is not None and shift is not None:
            bias.copy_(shift)

    @property
    def _without_heads(self) -> bool:
        return self._layer is not None and not self._layer.num_heads

    def _solution(
        self, fit: Moments, held: Moments, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if self._method == "bias" or self._without_heads:
            return weight, recentre(fit + held, weight, bias)
        if self._method == "scale" and self._layer is not None:
            owner = owners(self._layer.context_axis, self._layer.sizes).to(weight.device)
            return rescale(fit, held, weight, bias, owner), bias
        return refit(fit, held, weight, bias)

    def _moments(self, batches: Sequence[Any], forward: Forward) -> tuple[Moments, Moments]:
        """Of the layer's inputs as they are now and what it should put out: to fit, and held out."""
        weight = weight_of(self.linear)
        parts = [Moments.zero(weight.shape[1], weight.shape[0], weight.device) for _ in range(2)]
        for number, batch in enumerate(batches):
            weights = self._goal.weights[number]
            runs = self._runs(number, batch, forward) if weights else []
            for (read, wanted), counts in zip(runs, weights, strict=True):
                for part, rows in enumerate(_split(number, len(batches), len(read))):
                    one = Moments.of(read[rows].flatten(0, -2), wanted[rows].flatten(0, -2), counts[rows].flatten())
                    parts[part] = parts[part] + one
        return parts[0], parts[1]

    def _runs(self, number: int, batch: Any, forward: Forward) -> list[tuple[Tensor, Tensor]]:
        """For each of the layer's runs in this batch, what it reads and what it should put out."""
        values = self._goal.values[number]
        reader = None if self._goal.reader is None else self._model.get_submodule(self._goal.reader)
        entered = self._layer.module if self._layer is not None and self._without_heads else None
        ran: list[tuple[Tensor, Tensor]] = []
        streams: list[Tensor] = []
        if entered is None or reader is not None:
            ran, streams = runs_of(
                self.linear, reader, len(values), lambda: forward(self._model, batch), entered=entered
            )
        if entered is not None:  # its projection need not be called
            ran = [self._over_no_heads(value) for value in values]
        self._check(number, ran, streams if reader is not None else values)
        if reader is None:
            return [(read, value) for (read, _), value in zip(ran, values, strict=True)]
        return [
            (read, value.double() - (stream.double() - output.double()))
            for (read, output), stream, value in zip(ran, streams, values, strict=True)
        ]

    def _over_no_heads(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What the projection reads, (..., 0), and puts out, (..., o), where no head is left."""
        bias = self.linear._parameters.get("bias")
        output = torch.zeros_like(like) if bias is None else bias.expand_as(like)
        return like.new_zeros(*like.shape[:-1], 0), output

    def _check(self, number: int, ran: Sequence[tuple[Tensor, Tensor]], streams: Sequence[Tensor]) -> None:
        expected = [value.shape for value in self._goal.values[number]]
        found = [output.shape for _, output in ran]
        if found != expected or [stream.shape for stream in streams] != expected:
            raise CalibrationError(
                f"{self.name!r}, batch {number}: forward must run the pruned model as it runs the teacher, but the "
                f"layer puts out {[tuple(shape) for shape in found]} in the pruned model and "
                f"{[tuple(shape) for shape in expected]} in the teacher"
            )
        if not all(one.isfinite().all() for run in ran for one in run):
            raise CalibrationError(
                f"{self.name!r}, batch {number}: the layer reads or puts out NaN or infinite values in the pruned "
                "model; look for them in its weights"
            )


def _split(number: int, batches: int, examples: int) -> tuple[slice, slice]:
    """Which of a batch's examples to fit on, and which to hold out: whole batches, if there are several."""
    if batches == 1:
        middle = examples - examples // HELD_OUT
        return slice(0, middle), slice(middle, None)
    nothing, everything = slice(0, 0), slice(None)
    return (nothing, everything) if number % HELD_OUT == min(HELD_OUT, batches) - 1 else (everything, nothing)


def _shared(names: Sequence[str], model: nn.Module, teacher: nn.Module) -> list[str]:
    """The same names, if both models have them in the same shape."""
    modules = dict(model.named_modules())
    for name in names:
        here, there = modules.get(name), teacher.get_submodule(name)
        if here is None or not is_linear(here) or weight_of(here).shape != weight_of(there).shape:
            raise PlanError(f"the teacher is not the model that was pruned: {name!r} is another layer there")
    return list(names)


def _check_belong(students: Mapping[str, AttentionLayer], teachers: Mapping[str, AttentionLayer]) -> None:
    if not teachers or students.keys() != teachers.keys():
        only = sorted(students.keys() ^ teachers.keys())
        why = f"only one of the two has the layers {only}" if only else "neither has attention of a known family"
        raise PlanError(f"the teacher is not the model that was pruned: {why}")
    for name, student in students.items():
        teacher = teachers[name]
        for layer in (student, teacher):
            if not is_linear(layer.output):
                raise UnsupportedModule(
                    f"layer {name!r}: its output projection is a {type(layer.output).__name__}, not a plain linear"
                )
        if foreign := [head for head in student.heads if head not in teacher.heads]:
            raise PlanError(
                f"layer {name!r}: the pruned model has heads {foreign}, which the teacher has not (it has "
                f"{list(teacher.heads)}); give the model that was pruned"
            )
        sizes = [(one.lineage.total_heads, weight_of(one.output).shape[0], one.head_dim) for one in (student, teacher)]
        if sizes[0] != sizes[1]:
            raise PlanError(
                f"layer {name!r}: heads it was made with, width of its output and width of a head are {sizes[0]} in "
                f"the pruned model and {sizes[1]} in the teacher; give the model that was pruned"
            )
