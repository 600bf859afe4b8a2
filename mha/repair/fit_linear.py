"""Fits one linear layer of the pruned model again.

First come sums over all batches (`Moments`), those of some batches to fit on, those of others held out; then a solution
from these alone.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mha.families.base.linears import is_conv1d, weight_of
from mha.layer.output_bias import OutputBias
from mha.repair.least_squares import Accumulated, Moments, recentre, refit, rescale
from mha.repair.rows import Part, Rows
from mha.values.layout import owners

Method = Literal["bias", "scale", "least_squares"]
logger = logging.getLogger(__name__)

HELD_OUT = 4  # every fourth batch chooses the damping
LEAST_ROWS, ROWS_PER_FEATURE = 8192, 8  # of more tokens so many are drawn at random: further ones tell next to nothing


def fit(part: Part, rows: Iterable[Rows], method: Method, batches: int) -> None:
    """Fit the layer to its rows, in place; it stays as it is where nothing that `forward` returns depends on it.

    Args:
        method: what is fitted: the bias, a factor for each head, or weight and bias.
        batches: how many there are.
    """
    fit_to(part, sides_of(part, rows, batches, share_of(part)), method)


@dataclass(frozen=True)
class Sides:
    """The moments of what a layer reads and should put out; those of two sets of batches add up to those of both.

    Attributes:
        solve, held: of the rows to fit on, and of those held out.
        tokens: how many tokens count.
    """

    solve: Moments
    held: Moments
    tokens: int

    def __add__(self, other: "Sides") -> "Sides":
        return Sides(self.solve + other.solve, self.held + other.held, self.tokens + other.tokens)


def fit_to(part: Part, sides: Sides, method: Method) -> None:
    """Fit the layer, in place, to the moments of all batches."""
    if part.without_heads and part.linear._parameters["bias"] is None:
        return
    solve, held, tokens = sides.solve, sides.held, sides.tokens
    features = weight_of(part.linear).shape[1]
    if 0 < tokens < features and method == "least_squares":
        logger.warning(
            "%r reads %d features, and the calibration set has %d tokens for it that count: too few to solve it but by "
            "damping; give at least %d, and better ten times as many",
            part.name,
            features,
            tokens,
            features,
        )
    if (solve + held).n > 0:
        _set(part, *_solution(part, solve, held, method))


def _solution(part: Part, solve: Moments, held: Moments, method: Method) -> tuple[Tensor, Tensor | None]:
    """The new weight and bias of the layer, from moments to solve over, and those held out."""
    weight, own = weight_of(part.linear), part.linear._parameters.get("bias")
    bias = None if own is None else own.detach().double()
    if method == "bias" or part.without_heads:
        return weight, recentre(solve + held, weight, bias)
    if method == "scale" and part.layer is not None:
        owner = owners(part.layer.context_axis, part.layer.sizes).to(weight.device)
        return rescale(solve, held, weight, bias, owner), bias
    return refit(solve, held, weight, bias)


def share_of(part: Part) -> float:
    """Which share of the layer's tokens is drawn; 1 or more for all."""
    return max(LEAST_ROWS, ROWS_PER_FEATURE * weight_of(part.linear).shape[1]) / max(_expected_tokens(part), 1)


def sides_of(part: Part, rows: Iterable[Rows], batches: int, share: float) -> Sides:
    """The moments of these rows of the layer.

    Args:
        batches: how many there are, those included of which these are no rows.
        share: `share_of` the layer, which tells it of all batches.
    """
    outputs, inputs = weight_of(part.linear).shape
    device = weight_of(part.linear).device
    sums = [Accumulated(inputs, outputs, device) for _ in range(2)]
    generator = torch.Generator()
    tokens, last = 0, -1
    for number, read, wanted, weights in rows:
        tokens += int((weights > 0).sum())
        if number != last:  # what is drawn of a batch does not depend on those before it
            generator.manual_seed(number)
            last = number
        if share < 1:
            weights = weights * (torch.rand(weights.shape, generator=generator) < share).to(weights)
        for place, some in enumerate(_split(number, batches, len(read))):
            if read[some].numel() or not inputs:
                sums[place].add(read[some].flatten(0, -2), wanted[some].flatten(0, -2), weights[some].flatten())
    return Sides(sums[0].moments(), sums[1].moments(), tokens)


def _expected_tokens(part: Part) -> float:
    """About how many tokens of all batches count for the layer; those that were read tell how many others have."""
    runs = [weights for of_batch in part.goal.weights.values() for weights in of_batch]
    told = [int((weights > 0).sum()) for weights in runs if weights.dim()]
    return sum(told) * len(runs) / len(told) if told else 0.0


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


@torch.no_grad()
def _set(part: Part, weight: Tensor, shift: Tensor | None) -> None:
    """Give the layer this weight (o, k) and this bias; what is left of one without heads takes the bias only."""
    if not isinstance(part.linear, OutputBias):
        part.linear.get_parameter("weight").copy_(weight.T if is_conv1d(part.linear) else weight)
    bias = part.linear._parameters.get("bias")
    if bias is not None and shift is not None:
        bias.copy_(shift)
