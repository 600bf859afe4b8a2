"""Repair after pruning, from unlabelled calibration data: linear layers of what is left are fitted again.

Layer by layer in the order in which they run, with the pruned and already repaired layers in front, each is brought
close to what it does in the dense model. Nothing is trained.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer, AttentionMap, find_attention
from mha.families.base.linears import is_conv1d, weight_of
from mha.families.base.wrappers import unwrapped
from mha.layer.output_bias import OutputBias
from mha.pruning.masking import at_rest
from mha.pruning.resolve import kept_entries
from mha.pruning.slicing import plan_of
from mha.repair.least_squares import Moments, recentre, refit, rescale
from mha.repair.residual_stream import (
    Forward,
    Goal,
    calling_outputs,
    goals_of,
    is_linear,
    other_linears,
    outputs_of,
    runs_of,
    together,
)
from mha.runtime.inference_tensors import usable, usable_batch
from mha.runtime.locking import locked
from mha.runtime.progress import WITH_GRADIENTS, Bar
from mha.values.errors import CalibrationError, PlanError, UnsupportedModule
from mha.values.layout import owners

Method = Literal["bias", "scale", "least_squares"]
Scope = Literal["attention", "stream", "all"]
METHODS: tuple[Method, ...] = ("bias", "scale", "least_squares")
SCOPES = ("attention", "stream", "all")
WIDEST = 8  # times what it reads: a wider layer spells a vocabulary, and its targets would fill the memory
HELD_OUT = 4  # every fourth batch chooses the damping


def compensate(
    pruned: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    forward: Forward,
    method: Method = "least_squares",
    *,
    scope: Scope = "all",
    progress: bool | None = None,
) -> nn.Module:
    """A copy of `pruned` that comes closer to `teacher`, the model it was pruned from; without labels or training.

    Methods, each for one layer after the other, from the first pruned one on:

    - "bias": the mean of what the layer lacks goes into the output projection's bias (An et al. 2023, FLAP, 3.3).
    - "scale": one factor per head, by least squares (Kwon et al. 2022, section 4.3).
    - "least_squares": W_o and its bias, by least squares toward the dense layer's outputs; or, where the output is
      added to a residual stream, toward what the stream holds after the dense layer, which makes up for what earlier
      layers left undone. The other linear layers likewise (`scope`). Damped toward the present weight, by as much as
      serves held-out batches (every fourth) best.

    Positions count as much as what `forward` returns depends on them: padding that is masked in the end does not.
    A layer without heads gets a new bias. A projection without a bias stays without one, so that the result
    is saved and loaded like any pruned model.

    Both models run in eval mode, and are left as they were, also after an error. What the stream holds after each
    fitted layer is kept in memory: for float32 4 bytes x positions x width x layers.

    Args:
        batches: read once, and held; labels are not needed.
        forward: (model, batch) runs the model and returns what matters of its output.
        scope: what least squares may fit: "attention", the output projections; "stream", also every other linear
            layer that writes to the residual stream, such as the second one of a feed-forward network; or "all", also
            the linear layers that read it, toward their own outputs in the dense model.
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.

    Raises:
        CalibrationError: an unknown method or scope, no batches, NaN or infinity, or a `forward` that does not run both
            models alike.
        PlanError: the models do not belong together: other layers, or heads that the teacher does not have.
        UnsupportedModule: an output projection that is no plain linear layer.
        BusyError: another thread has one of the models, and waiting for it would not end.
    """
    for given, known in ((method, METHODS), (scope, SCOPES)):
        if given not in known:
            raise CalibrationError(f"expected one of {', '.join(known)}, got {given!r}")
    held = [usable_batch(batch) for batch in batches or ()]
    if not held:
        raise CalibrationError("the calibration set is empty: expected at least one batch")
    with locked(pruned, teacher, by="mha.compensate", draws=True), torch.inference_mode(False):
        repaired = copy.deepcopy(unwrapped(pruned))
        bar = Bar("compensate", progress)
        with bar.shown():
            _fit_again(usable(repaired), usable(unwrapped(teacher)), held, forward, method, scope, bar)
    return repaired


def _fit_again(
    repaired: nn.Module,
    teacher: nn.Module,
    held: Sequence[Any],
    forward: Forward,
    method: Method,
    scope: Scope,
    bar: Bar,
) -> None:
    """Fit the linear layers of the model anew, in place."""
    students, teachers = find_attention(repaired), find_attention(teacher)
    _check_belong(students, teachers)
    layers = {teachers[name].output_name: layer for name, layer in students.items()}
    cut = [name for name, layer in layers.items() if layer.num_heads < teachers[layer.name].num_heads]
    own = method != "least_squares"
    others = [] if own or scope == "attention" else _shared(teacher, teachers, repaired)
    further = _rows(teacher, repaired, others) if scope == "all" else {}
    empty = [teachers[layer.name].module for layer in students.values() if not layer.num_heads]
    silent = {module for layer in empty for module in layer.modules()}
    guess = len(held) * (len(layers) + len(others) + 1) / 2  # as if each were fitted, and ran after the one before
    bar.expect(WITH_GRADIENTS * len(held) + guess)
    bar.doing("reading the dense model")
    with at_rest(teacher, repaired), calling_outputs(teachers):
        watched = bar.counting(forward, WITH_GRADIENTS)
        goals = goals_of(
            teacher, list(layers), others, held, watched, first=cut, own=own, further=further, silent=silent
        )
        groups = together(goals)
        work = [len(held) * runs for runs in _runs_for(groups, goals, len(layers) + len(others))]
        bar.expect(sum(work) - guess)
        with torch.no_grad(), calling_outputs(students):
            for names, units in zip(groups, work, strict=True):
                bar.doing(names[0])
                parts = {name: goals.pop(name) for name in names}
                for name, goal in parts.items():
                    if goal.kept:
                        _Repair(name, layers.get(name), goal, repaired, method).run(held, forward)
                if weights := {name: goal.weights for name, goal in parts.items() if not goal.kept}:
                    _Alignment(repaired, teacher, weights, further).run(held, forward)
                bar.advance(units)


def _runs_for(groups: Sequence[Sequence[str]], goals: Mapping[str, Goal], layers: int) -> list[float]:
    """About how many runs of a whole model each group takes for a batch: passes end with its layers.

    Args:
        layers: how many there are, those before the first group included.
    """
    runs, left = [], len(goals)
    for names in groups:
        left -= len(names)
        models = 1 if goals[names[0]].kept else 2  # the dense one too
        runs.append(models * (1 - left / layers))
    return runs


class _Alignment:
    """Linear layers that read the same, to be fitted to what they put out in the dense model.

    Args:
        weights: layer -> batch -> for each run how much every position counts.
        rows: layer -> which of the dense layer's outputs it still has; None for all.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        weights: Mapping[str, Sequence[Sequence[Tensor]]],
        rows: Mapping[str, Tensor | None],
    ) -> None:
        self._model, self._teacher, self._weights, self._rows = model, teacher, weights, rows

    def run(self, batches: Sequence[Any], forward: Forward) -> None:
        parts = {name: _no_moments(self._model.get_submodule(name)) for name in self._weights}
        for number, batch in enumerate(batches):
            counts = {name: len(weights[number]) for name, weights in self._weights.items()}
            if not any(counts.values()):
                continue
            reads, wanted = (
                outputs_of({name: model.get_submodule(name) for name in counts}, counts, partial(forward, model, batch))
                for model in (self._model, self._teacher)
            )
            for name, weights in self._weights.items():
                outputs = [self._kept(name, value) for _, value in wanted[name]]
                _check_alike(name, number, reads[name], [value.shape for value in outputs])
                runs = [(read, value) for (read, _), value in zip(reads[name], outputs, strict=True)]
                _add_moments(parts[name], runs, weights[number], number, len(batches))
        for name, (fit, held) in parts.items():
            if (fit + held).n > 0:
                linear = self._model.get_submodule(name)
                bias = linear._parameters.get("bias")
                _set(linear, *refit(fit, held, weight_of(linear), None if bias is None else bias.double()))

    def _kept(self, name: str, value: Tensor) -> Tensor:
        rows = self._rows[name]
        return value if rows is None else value.index_select(-1, rows.to(value.device))


class _Repair:
    """One linear layer to be fitted again.

    Args:
        name: of the layer in the dense model.
        layer: the attention layer whose output projection it is, if it is one.
    """

    def __init__(self, name: str, layer: AttentionLayer | None, goal: Goal, model: nn.Module, method: Method) -> None:
        self.name = name
        self.linear = model.get_submodule(name) if layer is None else layer.output
        self._layer, self._goal, self._model, self._method = layer, goal, model, method

    def run(self, batches: Sequence[Any], forward: Forward) -> None:
        if self._without_heads and self.linear._parameters["bias"] is None:
            return
        fit, held = self._moments(batches, forward)
        if not (fit + held).n > 0:  # nothing that forward returns depends on the layer
            return
        bias = self.linear._parameters.get("bias")
        _set(self.linear, *self._solution(fit, held, weight_of(self.linear), None if bias is None else bias.double()))

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
        parts = _no_moments(self.linear)
        for number, batch in enumerate(batches):
            weights = self._goal.weights[number]
            runs = self._runs(number, batch, forward) if weights else []
            _add_moments(parts, runs, weights, number, len(batches))
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
        _check_alike(self.name, number, ran, expected if [one.shape for one in streams] == expected else [])


def _no_moments(linear: nn.Module) -> list[Moments]:
    """To fit, and held out."""
    weight = weight_of(linear)
    return [Moments.zero(weight.shape[1], weight.shape[0], weight.device) for _ in range(2)]


def _add_moments(
    parts: list[Moments],
    runs: Sequence[tuple[Tensor, Tensor]],
    weights: Sequence[Tensor],
    number: int,
    batches: int,
) -> None:
    """Those of what a layer reads and should put out in one batch.

    Args:
        number: of the batch, among how many `batches`.
    """
    for (read, wanted), counts in zip(runs, weights, strict=True):
        for part, rows in enumerate(_split(number, batches, len(read))):
            one = Moments.of(read[rows].flatten(0, -2), wanted[rows].flatten(0, -2), counts[rows].flatten())
            parts[part] = parts[part] + one


def _set(linear: nn.Module, weight: Tensor, shift: Tensor | None) -> None:
    """Give the layer this weight (o, k) and bias; an output without heads has no weight."""
    if not isinstance(linear, OutputBias):
        linear.get_parameter("weight").copy_(weight.T if is_conv1d(linear) else weight)
    bias = linear._parameters.get("bias")
    if bias is not None and shift is not None:
        bias.copy_(shift)


def _check_alike(name: str, number: int, ran: Sequence[tuple[Tensor, Tensor]], expected: Sequence[torch.Size]) -> None:
    found = [output.shape for _, output in ran]
    if found != list(expected):
        raise CalibrationError(
            f"{name!r}, batch {number}: forward must run the pruned model as it runs the teacher, but the "
            f"layer puts out {[tuple(shape) for shape in found]} in the pruned model and "
            f"{[tuple(shape) for shape in expected]} in the teacher"
        )
    if not all(one.isfinite().all() for run in ran for one in run):
        raise CalibrationError(
            f"{name!r}, batch {number}: the layer reads or puts out NaN or infinite values in the pruned "
            "model; look for them in its weights"
        )


def _split(number: int, batches: int, examples: int) -> tuple[slice, slice]:
    """Which of a batch's examples to fit on, and which to hold out: whole batches, if there are several."""
    if batches == 1:
        middle = examples - examples // HELD_OUT
        return slice(0, middle), slice(middle, None)
    nothing, everything = slice(0, 0), slice(None)
    return (nothing, everything) if number % HELD_OUT == min(HELD_OUT, batches) - 1 else (everything, nothing)


def _shared(teacher: nn.Module, teachers: AttentionMap, model: nn.Module) -> list[str]:
    """The linear layers beside output projections that both models have.

    Raises:
        PlanError: one that is no part of attention is missing in the pruned model, or has another shape.
    """
    modules = dict(model.named_modules())
    found = []
    for name in other_linears(teacher, teachers):
        here, there = modules.get(name), teacher.get_submodule(name)
        alike = here is not None and is_linear(here)
        if any(layer == "" or name.startswith(f"{layer}.") for layer in teachers):
            if alike:
                found.append(name)
        elif not alike or weight_of(modules[name]).shape != weight_of(there).shape:
            raise PlanError(f"the teacher is not the model that was pruned: {name!r} is another layer there")
        else:
            found.append(name)
    return found


def _rows(teacher: nn.Module, model: nn.Module, names: Sequence[str]) -> dict[str, Tensor | None]:
    """Layer -> which of the teacher's outputs it still has; without layers for which that can't be told."""
    entries = kept_entries(teacher, plan_of(model))
    found: dict[str, Tensor | None] = {}
    for name in names:
        here, there = model.get_submodule(name), teacher.get_submodule(name)
        rows = entries.get(f"{name}.weight", {}).get(1 if is_conv1d(there) else 0)
        (outputs, inputs), kept = weight_of(there).shape, weight_of(here).shape
        if kept[0] and kept == (outputs if rows is None else len(rows), inputs) and outputs <= WIDEST * inputs:
            found[name] = rows
    return found


def _check_belong(students: Mapping[str, AttentionLayer], teachers: Mapping[str, AttentionLayer]) -> None:
    if not teachers or students.keys() != teachers.keys():
        only = sorted(students.keys() ^ teachers.keys())
        why = f"only one of the two has the layers {only}" if only else "neither has attention of a known family"
        raise PlanError(f"the teacher is not the model that was pruned: {why}")
    for name, student in students.items():
        teacher = teachers[name]
        for layer in (student, teacher):
            if layer.num_heads and not is_linear(layer.output):
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
