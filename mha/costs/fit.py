"""From what was timed to a table: curves through the shapes, and a sum that agrees with whole models."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mha.costs.counts import count_parameters, fill_flops, parameters_of
from mha.costs.shapes import Shape
from mha.costs.subject import Kind, Subject, share_of
from mha.costs.table import CostTable, LayerCosts, ShapeCost, WholeModel
from mha.families import AttentionLayer
from mha.timing import NORMAL, Spread

DOUBT = 0.5  # how far from 1 `scale` is expected to be, before the whole models are looked at
LEAST_NOISE = 0.003  # of the dense model's time: no interval is trusted more than that
LEAST_SCALE = 0.1  # whatever is measured, layers take time


@dataclass(frozen=True)
class Fit:
    """All times as shares of the dense model's.

    Attributes:
        dense: the dense model, in seconds.
        wholes: share of heads kept in every layer -> the model pruned so.
        alone: kind -> shape -> the layer by itself.
    """

    subject: Subject
    dense: Spread
    wholes: Mapping[float, Spread]
    alone: Mapping[Kind, Mapping[Shape, Spread]]

    @cached_property
    def curves(self) -> dict[Kind, dict[Shape, float]]:
        """The layers by themselves at every shape."""
        return {
            kind: kind.grid.fill({shape: spread.value for shape, spread in spreads.items()})
            for kind, spreads in self.alone.items()
        }

    @property
    def anchor(self) -> float:
        """The pruned model with all heads: the dense one, unless pruning changes the class of a layer."""
        return self.wholes[1.0].value if 1.0 in self.wholes else 1.0

    @cached_property
    def scale(self) -> float:
        """How much longer layers take in the model than by themselves.

        It absorbs that a layer finds other things in the caches, and that on a busy machine short calls are
        interrupted less. Least squares over what the whole models save against all heads, each weighed by its
        interval, and drawn to 1: it stays there if attention is a trifle, or the times are noise.
        """
        gain, weight = 0.0, DOUBT**-2
        for share, spread in self.wholes.items():
            alone = self._attention(1.0) - self._attention(share)
            saved = self.anchor - spread.value
            precision = 1 / (LEAST_NOISE + spread.half_width / NORMAL) ** 2
            gain += precision * alone * (saved - alone)
            weight += precision * alone**2
        return max(1.0 + gain / weight, LEAST_SCALE)

    @property
    def rest(self) -> float:
        """What the model takes beside its attention."""
        return self.anchor - self.scale * self._attention(1.0)

    def table(self, environment: Mapping[str, Any], ended: str) -> CostTable:
        """Everything in seconds."""
        layers, parameters = self.subject.layers, count_parameters(self.subject.layers)
        size, bounds = parameters_of(self.subject.model), (self.dense.low, self.dense.high)
        return CostTable(
            layers={name: self._layer(layer, parameters[name]) for name, layer in layers.items()},
            dense=ShapeCost(self.dense.value, self.subject.flops, size, *bounds),
            rest=self.rest * self.dense.value,
            scale=self.scale,
            whole_models=tuple(self._whole_model(share) for share in self.wholes),
            environment=environment,
            ended=ended,
        )

    def _attention(self, share: float) -> float:
        """All layers by themselves, with that share of their heads."""
        layers = self.subject.layers.values()
        return sum(self._sum(layer, share_of(layer, share), self.curves) for layer in layers)

    def _sum(self, layer: AttentionLayer, shape: Shape, amounts: Mapping[Kind, Mapping[Shape, float]]) -> float:
        """Over the layer's calls in one run of the model."""
        return sum(count * amounts[kind][shape] for kind, count in self.subject.calls[layer.name])

    def _layer(self, layer: AttentionLayer, parameters: Mapping[Shape, int]) -> LayerCosts:
        calls = self.subject.calls[layer.name]
        flops = {kind: fill_flops(kind.flops, kind.grid.whole) for kind, _ in calls}
        factor = self.scale * self.dense.value
        costs = {
            shape: ShapeCost(
                factor * self._sum(layer, shape, self.curves),
                round(self._sum(layer, shape, flops)),
                size,
                *self._bounds(layer, shape, factor),
            )
            for shape, size in parameters.items()
        }
        return LayerCosts(layer.heads, layer.num_kv_heads, costs)

    def _bounds(self, layer: AttentionLayer, shape: Shape, factor: float) -> Iterable[float | None]:
        calls = self.subject.calls[layer.name]
        if any(shape not in self.alone[kind] for kind, _ in calls):
            return None, None
        spreads = [(self.alone[kind][shape], count) for kind, count in calls]
        return (
            factor * sum(spread.low * count for spread, count in spreads),
            factor * sum(spread.high * count for spread, count in spreads),
        )

    def _whole_model(self, share: float) -> WholeModel:
        heads = tuple(share_of(layer, share).heads for layer in self.subject.layers.values())
        return WholeModel(heads, *self.wholes[share], self.rest + self.scale * self._attention(share))
