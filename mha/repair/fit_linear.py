"""Fits one linear layer of the pruned model again, or several that read the same input.

First come sums over all batches (`Moments`), those of some batches to fit on, those of others held out; then a solution
from these alone.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer
from mha.families.base.linears import is_conv1d, weight_of
from mha.layer.output_bias import OutputBias
from mha.repair.least_squares import Moments, recentre, refit, rescale
from mha.repair.observe import Forward
from mha.repair.partial_pass import InputAndOutput, runs_and_reads, runs_of_several
from mha.repair.residual_stream import Goal
from mha.values.errors import CalibrationError
from mha.values.layout import owners

Method = Literal["bias", "scale", "least_squares"]
HELD_OUT = 4  # every fourth batch chooses the damping


class LinearFit:
    """One linear layer to be fitted to its goal.

    Args:
        name: of the layer in the dense model.
        layer: the attention layer of the pruned model whose output projection it is; None where it is none.
        goal: what the layer leads to in the dense model.
        model: the pruned model, which is changed.
        method: what is fitted: the bias, a factor for each head, or weight and bias.
    """

    def __init__(self, name: str, layer: AttentionLayer | None, goal: Goal, model: nn.Module, method: Method) -> None:
        self.name = name
        self.linear = model.get_submodule(name) if layer is None else layer.output
        self._layer, self._goal, self._model, self._method = layer, goal, model, method

    def run(self, batches: Sequence[Any], forward: Forward) -> None:
        """Fit the layer, in place; it stays as it is where nothing that `forward` returns depends on it.

        Raises:
            CalibrationError: in some batch the layer does not run as in the dense model, or reads or puts out NaN or
                infinity.
        """
        if self._without_heads and self.linear._parameters["bias"] is None:
            return
        fit, held = self._moments(batches, forward)
        if (fit + held).n > 0:
            _set(self.linear, *self._solution(fit, held, weight_of(self.linear), _bias_of(self.linear)))

    @property
    def _without_heads(self) -> bool:
        """Whether the linear layer is what is left of an attention layer that keeps no head."""
        return self._layer is not None and not self._layer.num_heads

    def _solution(
        self, fit: Moments, held: Moments, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The new weight and bias, by the method that this fit was made with."""
        if self._method == "bias" or self._without_heads:
            return weight, recentre(fit + held, weight, bias)
        if self._method == "scale" and self._layer is not None:
            owner = owners(self._layer.context_axis, self._layer.sizes).to(weight.device)
            return rescale(fit, held, weight, bias, owner), bias
        return refit(fit, held, weight, bias)

    def _moments(self, batches: Sequence[Any], forward: Forward) -> tuple[Moments, Moments]:
        """The moments of what the layer reads and should put out, over all batches: to fit on, and held out."""
        parts = _no_moments(self.linear)
        for number, batch in enumerate(batches):
            weights = self._goal.weights[number]
            runs = self._runs(number, batch, forward) if weights else []
            _add_moments(parts, runs, weights, number, len(batches))
        return parts[0], parts[1]

    def _runs(self, number: int, batch: Any, forward: Forward) -> list[InputAndOutput]:
        """For each of the layer's runs in this batch, what it reads and what it should put out."""
        values = self._goal.values[number]
        reader = None if self._goal.reader is None else self._model.get_submodule(self._goal.reader)
        entered = self._layer.module if self._layer is not None and self._without_heads else None
        ran: list[InputAndOutput] = []
        streams: list[Tensor] = []
        if entered is None or reader is not None:
            ran, streams = runs_and_reads(
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

    def _over_no_heads(self, like: Tensor) -> InputAndOutput:
        """What an output projection without heads reads, (..., 0), and puts out: its bias or 0, in the shape of `like`.

        Args:
            like: what the projection puts out in the dense model, (..., o).
        """
        bias = self.linear._parameters.get("bias")
        output = torch.zeros_like(like) if bias is None else bias.expand_as(like)
        return like.new_zeros(*like.shape[:-1], 0), output

    def _check(self, number: int, ran: Sequence[InputAndOutput], streams: Sequence[Tensor]) -> None:
        """Refuse a batch in which the layer's runs, or what is read after them, have not the dense model's shapes.

        Args:
            number: of the batch.
            ran: what the layer read and put out in each run.
            streams: what the goal's reader read after each run; without a reader, the goal's values.

        Raises:
            CalibrationError: the shapes differ, or what the layer reads or puts out holds NaN or infinity.
        """
        expected = [value.shape for value in self._goal.values[number]]
        _check_alike(self.name, number, ran, expected if [stream.shape for stream in streams] == expected else [])


class LinearsFit:
    """Linear layers that read the same input, to be fitted to what they put out in the dense model.

    Args:
        model: the pruned model, which is changed.
        teacher: the dense model.
        weights: layer -> batch -> for each run how much every token counts.
        rows: layer -> indices of the dense layer's output features that it still has; None for all.
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
        """Fit the layers, in place; those on which nothing that `forward` returns depends stay as they are.

        Raises:
            CalibrationError: in some batch a layer does not run as in the dense model, or reads or puts out NaN or
                infinity.
        """
        moments = {name: _no_moments(self._model.get_submodule(name)) for name in self._weights}
        for number, batch in enumerate(batches):
            self._add(moments, number, batch, forward, len(batches))
        for name, (fit, held) in moments.items():
            if (fit + held).n > 0:
                linear = self._model.get_submodule(name)
                _set(linear, *refit(fit, held, weight_of(linear), _bias_of(linear)))

    def _add(
        self, moments: Mapping[str, list[Moments]], number: int, batch: Any, forward: Forward, batches: int
    ) -> None:
        """Add the moments of one batch, which is run through both models.

        Args:
            moments: layer -> the moments to fit on, and those held out; these are changed.
            number: of the batch, among how many `batches`.
        """
        counts = {name: len(weights[number]) for name, weights in self._weights.items()}
        if not any(counts.values()):
            return
        ran, ran_dense = (
            runs_of_several(
                {name: model.get_submodule(name) for name in counts}, counts, partial(forward, model, batch)
            )
            for model in (self._model, self._teacher)
        )
        for name, weights in self._weights.items():
            wanted = [self._kept(name, output) for _, output in ran_dense[name]]
            _check_alike(name, number, ran[name], [output.shape for output in wanted])
            runs = [(read, output) for (read, _), output in zip(ran[name], wanted, strict=True)]
            _add_moments(moments[name], runs, weights[number], number, batches)

    def _kept(self, name: str, output: Tensor) -> Tensor:
        """Of the layer's output (…, o) in the dense model, the features that the layer still has in the pruned one."""
        rows = self._rows[name]
        return output if rows is None else output.index_select(-1, rows.to(output.device))


def _no_moments(linear: nn.Module) -> list[Moments]:
    """Moments of no rows, in the widths of the linear layer, twice: to fit on, and held out."""
    weight = weight_of(linear)
    return [Moments.zero(weight.shape[1], weight.shape[0], weight.device) for _ in range(2)]


def _add_moments(
    parts: list[Moments],
    runs: Sequence[InputAndOutput],
    weights: Sequence[Tensor],
    number: int,
    batches: int,
) -> None:
    """Add to `parts` the moments of what a layer reads and should put out in one batch.

    Args:
        parts: the moments to fit on, and those held out.
        runs: what the layer reads and should put out in each of its runs.
        weights: for each run how much every token counts.
        number: of the batch, among how many `batches`.
    """
    for (read, wanted), counts in zip(runs, weights, strict=True):
        for place, rows in enumerate(_split(number, batches, len(read))):
            added = Moments.of(read[rows].flatten(0, -2), wanted[rows].flatten(0, -2), counts[rows].flatten())
            parts[place] = parts[place] + added


def _split(number: int, batches: int, examples: int) -> tuple[slice, slice]:
    """Which of a batch's examples to fit on, and which to hold out.

    Of several batches every fourth is held out as a whole (of fewer than four the last); of a single one, the last
    quarter of its examples.

    Args:
        number: of the batch, among how many `batches`.
        examples: the first dimension of what the layer reads.
    """
    if batches == 1:
        middle = examples - examples // HELD_OUT
        return slice(0, middle), slice(middle, None)
    nothing, everything = slice(0, 0), slice(None)
    return (nothing, everything) if number % HELD_OUT == min(HELD_OUT, batches) - 1 else (everything, nothing)


def _bias_of(linear: nn.Module) -> Tensor | None:
    """The layer's bias in float64; None where it has none."""
    bias = linear._parameters.get("bias")
    return None if bias is None else bias.double()


def _set(linear: nn.Module, weight: Tensor, shift: Tensor | None) -> None:
    """Give the layer this weight (o, k) and this bias; what is left of one without heads takes the bias only."""
    if not isinstance(linear, OutputBias):
        linear.get_parameter("weight").copy_(weight.T if is_conv1d(linear) else weight)
    bias = linear._parameters.get("bias")
    if bias is not None and shift is not None:
        bias.copy_(shift)


def _check_alike(name: str, number: int, ran: Sequence[InputAndOutput], expected: Sequence[torch.Size]) -> None:
    """Refuse runs of a layer whose outputs have other shapes than in the dense model, or that hold NaN or infinity.

    Args:
        name, number: of the layer and of the batch, for the error.
        ran: what the layer reads and puts out in each run.
        expected: the shape of what it puts out in each run of the dense model.

    Raises:
        CalibrationError: there is such a run, or another number of runs than expected.
    """
    shapes = [output.shape for _, output in ran]
    if shapes != list(expected):
        raise CalibrationError(
            f"{name!r}, batch {number}: forward must run the pruned model as it runs the teacher, but the "
            f"layer puts out {[tuple(shape) for shape in shapes]} in the pruned model and "
            f"{[tuple(shape) for shape in expected]} in the teacher"
        )
    if not all(tensor.isfinite().all() for run in ran for tensor in run):
        raise CalibrationError(
            f"{name!r}, batch {number}: the layer reads or puts out NaN or infinite values in the pruned "
            "model; look for them in its weights"
        )
