"""Which heads to keep, for every budget at once, from one reading of the dense model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mha.costs.shapes import Shape
from mha.families import AttentionLayer, find_attention
from mha.families.base.linears import weight_of
from mha.importance.head_scores import head_scores
from mha.importance.running.batch import Loss
from mha.importance.running.removal import Slopes, kept_sets, solved_without
from mha.planning.choose import best_plan
from mha.planning.feasible import Choice
from mha.pruning.masking import eval_mode
from mha.repair.distill import Distance, relative_error
from mha.repair.measured import Change, rises
from mha.repair.observe import (
    Forward,
    Run,
    all_finite,
    calling_outputs,
    gradients,
    observed,
    random_signs,
    root_mean_square,
)
from mha.repair.reading import Reading, read
from mha.runtime.nests import mapped
from mha.runtime.progress import Bar
from mha.values.layout import owners
from mha.values.plan import HeadPlan, HeadScores

NUDGE = 0.1
POINTS = 2  # numbers of heads that are measured in every layer
JUDGED = 1024  # tokens that they are measured on, at least: one text's rise is often twice another's
LEAST = 1e-9  # a measured loss below this is rounding
TINY = 1e-300
BUDGETS = ("keep", "heads", "latency", "flops", "parameters")


@dataclass(frozen=True)
class Selection:
    """What is lost, by every feasible number of heads in every layer, and which heads it is best to keep then.

    Attributes:
        model: the dense model.
        scores: names its layers and heads; the numbers say nothing.
        choices: layer -> the best heads of every shape; their values are what is lost without the others, negative.
        reading: what was read of the model meanwhile.
    """

    model: nn.Module
    scores: HeadScores
    choices: Mapping[str, Sequence[Choice]]
    reading: Reading

    def plan(self, budget: Mapping[str, Any]) -> HeadPlan:
        """The plan within the budget, one of those of `choose` with its terms, by which least is lost."""
        return plan_within(self.scores, budget, model=self.model, known=self.choices)


def plan_within(scores: HeadScores, budget: Mapping[str, Any], **further: Any) -> HeadPlan:
    """The plan that `choose` returns, without its warning.

    Args:
        budget: the arguments of `choose`: one budget, and terms.
        further: other arguments of `best_plan`.

    Raises:
        ScoresError: the budget can't be met.
        TypeError: a term that `choose` does not have.
    """
    limits = {name: budget.get(name) for name in BUDGETS}
    terms = {name: value for name, value in budget.items() if name not in BUDGETS}
    return best_plan(scores, limits, **terms, **further)


def select(
    model: nn.Module,
    batches: Sequence[Any],
    forward: Forward,
    loss: Loss | None = None,
    *,
    distance: Distance | None = None,
    enough: int | None = None,
    whole: nn.Module | None = None,
    bar: Bar,
) -> Selection:
    """Read the dense model, and find the best heads of every shape of every layer.

    What is lost is how far what `forward` returns moves, to second order, once the output projections are solved again
    for the heads that stay; with a loss, that and the loss's own curvature, each as a share of its sum over all layers.

    Args:
        distance: by which that is measured; None for mean squares.
        enough: after how many tokens no further batch is read, if those tell which tokens of the others count.
        bar: shows how many runs of the model have been made.
        whole: the dense model, which budgets are about, where the one that is read has lost heads already.

    Raises:
        CalibrationError: as `mha.repair.reading.read`.
    """
    layers = find_attention(model)
    by_output = {layer.output_name: layer for layer in layers.values() if layer.num_heads}
    sums = _Sums(by_output)
    watched = None if distance is None else _moved(forward, distance)
    with calling_outputs(layers):
        reading = read(model, batches, forward, watched=watched, seen=sums.see, enough=enough)
        slopes = sums.shares()
        if loss is not None:
            of_loss = _Sums(by_output)
            for number in reading.read[::2]:
                of_loss.read(model, batches[number], loss, number)
            slopes = {name: slopes[name] + of_this for name, of_this in of_loss.shares().items()}
    for output, layer in by_output.items():
        slopes.setdefault(output, _unseen(layer))
    computed = {layer.name: _choices(layer, slopes[output]) for output, layer in by_output.items()}
    judging = _Judging(model, [batches[number] for number in _judged(reading)], forward, distance or relative_error)
    choices = _measured(model, by_output, slopes, computed, judging, bar)
    choices |= {layer.name: [Choice(Shape(0, 0), 0.0, ())] for layer in layers.values() if not layer.num_heads}
    whole = model if whole is None else whole
    every = find_attention(whole)
    ones = {name: torch.ones(layer.num_heads, dtype=torch.float64) for name, layer in every.items()}
    return Selection(whole, head_scores(every, ones), choices, reading)


@dataclass(frozen=True)
class _Judging:
    """How far a model's outputs are from those of the dense one: what is to stay low.

    Attributes:
        model: the dense model.
        batches: those that are judged.
        apart: by what outputs are compared.
    """

    model: nn.Module
    batches: Sequence[Any]
    forward: Forward
    apart: Distance

    def judged(self, which: slice) -> Iterator[tuple[Any, Any]]:
        """Some of the batches, each with what the dense model puts out for it; only one is held at a time."""
        for batch in self.batches[which]:
            with eval_mode(self.model), torch.no_grad():
                dense = self.forward(self.model, batch)
            yield batch, dense

    def measure(self, small: nn.Module, judged: tuple[Any, Any]) -> float:
        """The distance of a model's outputs on one of the judged batches."""
        batch, dense = judged
        return float(self.apart(self.forward(small, batch), dense))


def _judged(reading: Reading) -> list[int]:
    """The numbers of the batches to measure on: as few as are enough, spread evenly over those that were read."""
    read = sorted(reading.read)
    chosen: list[int] = []
    for count in range(1, len(read) + 1):
        chosen = [read[int((place + 0.5) * len(read) / count)] for place in range(count)]
        if sum(map(reading.tokens, chosen)) >= JUDGED:
            break
    return chosen


def _measured(
    model: nn.Module,
    by_output: Mapping[str, AttentionLayer],
    slopes: Mapping[str, Slopes],
    computed: Mapping[str, Sequence[Choice]],
    judging: _Judging,
    bar: Bar,
) -> dict[str, Sequence[Choice]]:
    """The choices of all layers, with what is lost by them as measured, at some numbers of heads and between them.

    The first of these numbers, which most plans are near to, is measured on all batches, the others on every other one.
    """
    points = {layer.name: _points(computed[layer.name], layer) for layer in by_output.values()}
    changes = {
        layer.name: [_change(layer, slopes[output], choice) for choice in points[layer.name]]
        for output, layer in by_output.items()
    }
    count = len(judging.batches)
    others = count // 2
    bar.expect((sum(map(len, changes.values())) * (count - others) + len(changes) * others) / 2)
    found = rises(model, changes, judging.measure, judging.judged(slice(0, None, 2)), bar)
    if others:
        firsts = {name: of_layer[:1] for name, of_layer in changes.items()}
        again = rises(model, firsts, judging.measure, judging.judged(slice(1, None, 2)), bar)
        for name, (rise,) in again.items():
            found[name][0] = (found[name][0] * (count - others) + rise * others) / count
    return {name: _scaled(of_layer, points[name], found[name]) for name, of_layer in computed.items()}


def _points(choices: Sequence[Choice], layer: AttentionLayer) -> list[Choice]:
    """The choices of a layer that are measured: about half of its heads leave, and all."""
    by_heads: dict[int, Choice] = {}
    for choice in choices:
        best = by_heads.get(choice.shape.heads)
        if choice.shape.heads < layer.num_heads and (best is None or choice.value > best.value):
            by_heads[choice.shape.heads] = choice
    wanted = [layer.num_heads * (1 - part / POINTS) for part in range(1, POINTS + 1)]
    nearest = {min(by_heads, key=lambda heads: abs(heads - number)) for number in wanted}
    return [by_heads[heads] for heads in sorted(nearest, reverse=True)]


def _change(layer: AttentionLayer, slopes: Slopes, choice: Choice) -> Change:
    """The layer's output projection, solved again for the heads of the choice."""
    owner = owners(layer.context_axis, layer.sizes).to(slopes.inputs.device)
    bias = layer.output._parameters.get("bias")
    kept = [layer.heads.index(head) for head in choice.heads]
    return Change(*solved_without(slopes, weight_of(layer.output), bias, owner, kept))


def _scaled(choices: Sequence[Choice], points: Sequence[Choice], measured: Sequence[float]) -> list[Choice]:
    """The layer's choices, multiplied by what was measured of some, as a share of what was computed, and between them.

    Args:
        points: the choices that were measured.
        measured: what is lost by each of them.
    """
    shares = {
        choice.shape.heads: max(lost, LEAST) / max(-choice.value, TINY)
        for choice, lost in zip(points, measured, strict=True)
    }
    heads = sorted(shares)
    logarithms = np.interp(
        [choice.shape.heads for choice in choices], heads, np.log([shares[count] for count in heads])
    )
    return [
        replace(choice, value=choice.value * float(factor))
        for choice, factor in zip(choices, np.exp(logarithms), strict=True)
    ]


class _Sums:
    """The sums of all layers.

    Args:
        by_output: name of an output projection -> its layer.
    """

    def __init__(self, by_output: Mapping[str, AttentionLayer]) -> None:
        self._by_output = by_output
        self._slopes: dict[str, Slopes] = {}

    def see(self, run: Run, gradient: Tensor | None) -> None:
        """Add a run of an output projection to its layer's sums; without gradients, all outputs count alike."""
        if run.name in self._by_output:
            if run.name not in self._slopes:
                self._slopes[run.name] = Slopes.zero(run.input.shape[-1], run.output.shape[-1], run.output.device)
            self._slopes[run.name].add(run.input, _finite(gradient, run.output))

    def read(self, model: nn.Module, batch: Any, loss: Loss, number: int) -> None:
        """Add a batch, of this number, with the gradients of a loss; nothing of its pass is held afterwards."""
        with observed(model, list(self._by_output), batch, loss) as (runs, returned):
            for run, gradient in zip(runs, gradients(runs, returned, number)[0], strict=True):
                self.see(run, gradient)

    def shares(self) -> dict[str, Slopes]:
        """Output projection -> its sums, as if the squares of all gradients of all layers added up to 1."""
        total = sum(float(slopes.outputs.trace()) for slopes in self._slopes.values())
        return {name: slopes.scaled(1 / total if total > 0 else 1.0) for name, slopes in self._slopes.items()}


def _choices(layer: AttentionLayer, slopes: Slopes) -> list[Choice]:
    """The best heads of every shape of the layer."""
    owner = owners(layer.context_axis, layer.sizes).to(slopes.inputs.device)
    intercept = layer.output._parameters.get("bias") is not None
    sets = kept_sets(slopes, weight_of(layer.output), owner, layer.num_kv_heads, intercept=intercept)
    return [
        Choice(
            Shape(len(kept.positions), kept.groups), -kept.cost, tuple(layer.heads[place] for place in kept.positions)
        )
        for kept in sets
    ]


def _unseen(layer: AttentionLayer) -> Slopes:
    """The sums of a layer that does not run on the batches: nothing is lost without its heads."""
    outputs, inputs = weight_of(layer.output).shape
    return Slopes.zero(inputs, outputs)


def _finite(gradient: Tensor | None, output: Tensor) -> Tensor:
    """The gradient, or entries of random sign where there is none, or one that is NaN or infinite somewhere."""
    if gradient is not None and all_finite(gradient):
        return gradient
    generator = torch.Generator().manual_seed(0)
    return random_signs(output, generator)


def _moved(forward: Forward, distance: Distance) -> Forward:
    """Like `forward`, but returns how far its output is from itself, moved at random, by `distance`.

    The gradient of that is the distance's curvature times the movement: outputs count as they do for the distance.
    """

    def watched(model: nn.Module, batch: Any) -> Tensor:
        output = forward(model, batch)
        generator = torch.Generator().manual_seed(0)
        return distance(output, mapped(output, lambda part: _nudged(part, generator), (tuple, list, Mapping)))

    return watched


def _nudged(part: Any, generator: torch.Generator) -> Any:
    """A floating tensor, each entry moved up or down by a tenth of their root mean square; anything else as it is."""
    if not isinstance(part, Tensor) or not part.is_floating_point():
        return part
    part = part.detach()
    return random_signs(part, generator).mul_(NUDGE * root_mean_square(part)).add_(part)
