"""From what was timed to a table: curves through the shapes, and a sum that agrees with whole models."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mha.costs.counts import count_parameters, fill_flops, parameters_of
from mha.costs.measured import LayerKind, MeasuredModel, share_of, whole_of
from mha.costs.shapes import Shape
from mha.costs.table import CostTable, LayerCosts, ShapeCost, WholeModel
from mha.families import AttentionLayer
from mha.timing.quantiles import NORMAL, Spread

DOUBT = 0.5  # how far from 1 `scale` is expected to be, before the whole models are looked at
LEAST_NOISE = 0.003  # of the dense model's time: no interval is trusted more than that
LEAST_SCALE = 0.1  # whatever is measured, layers take time
TINY = 1e-12


@dataclass(frozen=True)
class Fit:
    """What the measured times say of every shape. All times are shares of the dense model's.

    Attributes:
        measured: what was timed.
        dense: the dense model, in seconds.
        wholes: share of heads kept in every layer -> the model pruned so.
        alone: kind -> shape -> the layer by itself.
    """

    measured: MeasuredModel
    dense: Spread
    wholes: Mapping[float, Spread]
    alone: Mapping[LayerKind, Mapping[Shape, Spread]]

    @cached_property
    def curves(self) -> dict[LayerKind, dict[Shape, float]]:
        """Kind of layer -> shape -> what the layer takes by itself; at every shape."""
        return {
            kind: kind.grid.fill({shape: spread.value for shape, spread in spreads.items()})
            for kind, spreads in self.alone.items()
        }

    @property
    def anchor(self) -> float:
        """What the pruned model with all heads takes: as the dense one, unless pruning changes the class of a layer."""
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

    @cached_property
    def corrections(self) -> dict[float, float]:
        """Share of heads kept in every layer -> what the whole model takes beyond the scaled sum of its layers.

        One factor does not fit every share: a layer with half of its heads may find more in the caches than a whole
        one. What is within the interval of the measured time is taken for noise (positive-part shrinkage, James and
        Stein 1961).
        """
        corrections = {1.0: 0.0}
        for share, spread in self.wholes.items():
            beyond = spread.value - self.rest - self.scale * self._attention(share)
            noise = max(spread.half_width, LEAST_NOISE)
            corrections[share] = beyond * max(0.0, 1.0 - (noise / beyond) ** 2) if beyond else 0.0
        return dict(sorted(corrections.items()))

    def table(self, environment: Mapping[str, Any], ended: str) -> CostTable:
        """The table of what every layer costs in every shape, in seconds."""
        layers, parameters = self.measured.layers, count_parameters(self.measured.layers)
        size, bounds = parameters_of(self.measured.model), (self.dense.low, self.dense.high)
        return CostTable(
            layers={name: self._layer(layer, parameters[name]) for name, layer in layers.items()},
            dense=ShapeCost(self.dense.value, self.measured.flops, size, *bounds),
            rest=self.rest * self.dense.value,
            scale=self.scale,
            whole_models=tuple(self._whole_model(share) for share in self.wholes),
            environment=environment,
            ended=ended,
        )

    def _attention(self, share: float) -> float:
        """What all layers together take by themselves, with that share of their heads."""
        layers = self.measured.layers.values()
        return sum(self._sum(layer, share_of(layer, share), self.curves) for layer in layers)

    def _sum(self, layer: AttentionLayer, shape: Shape, amounts: Mapping[LayerKind, Mapping[Shape, float]]) -> float:
        """The sum of a layer's amounts in that shape, over its calls in one run of the model."""
        return sum(count * amounts[kind][shape] for kind, count in self.measured.calls[layer.name])

    def _layer(self, layer: AttentionLayer, parameters: Mapping[Shape, int]) -> LayerCosts:
        """What a layer costs in every shape."""
        calls = self.measured.calls[layer.name]
        flops = {kind: fill_flops(kind.flops, kind.grid.whole) for kind, _ in calls}
        seconds = self._corrected(layer, parameters)
        costs = {
            shape: ShapeCost(
                seconds[shape] * self.dense.value,
                round(self._sum(layer, shape, flops)),
                size,
                *self._bounds(layer, shape, seconds[shape]),
            )
            for shape, size in parameters.items()
        }
        return LayerCosts(layer.heads, layer.num_kv_heads, costs)

    def _corrected(self, layer: AttentionLayer, shapes: Iterable[Shape]) -> dict[Shape, float]:
        """What the layer takes in the model, at every shape; no shape takes less than one that it contains."""
        part_of_attention = self._sum(layer, whole_of(layer), self.curves) / max(self._attention(1.0), TINY)
        heads = [share_of(layer, share).heads for share in self.corrections]
        beyond = list(self.corrections.values())
        seconds: dict[Shape, float] = {}
        for shape in sorted(shapes):
            extra = part_of_attention * float(np.interp(shape.heads, heads, beyond))
            value = self.scale * self._sum(layer, shape, self.curves) + extra
            inner = [seconds[s] for s in seconds if s.heads <= shape.heads and s.groups <= shape.groups]
            seconds[shape] = max([value, 0.0, *inner])
        return seconds

    def _bounds(self, layer: AttentionLayer, shape: Shape, seconds: float) -> Iterable[float | None]:
        """The 95 % interval of the layer by itself, put around what it takes in the model; None where not timed."""
        calls = self.measured.calls[layer.name]
        if any(shape not in self.alone[kind] for kind, _ in calls):
            return None, None
        spreads = [(self.alone[kind][shape], count * self.scale) for kind, count in calls]
        middle = sum(spread.value * count for spread, count in spreads)
        return (
            self.dense.value * (seconds + sum(spread.low * count for spread, count in spreads) - middle),
            self.dense.value * (seconds + sum(spread.high * count for spread, count in spreads) - middle),
        )

    def _whole_model(self, share: float) -> WholeModel:
        """What was measured of the whole model with that share of its heads, beside what the fit says."""
        heads = tuple(share_of(layer, share).heads for layer in self.measured.layers.values())
        predicted = self.rest + self.scale * self._attention(share) + self.corrections[share]
        return WholeModel(heads, *self.wholes[share], predicted)
