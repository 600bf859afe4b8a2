"""From measured times to a `CostTable`: curves over each layer's shapes, whose sums agree with whole models' times."""

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
        dense: the dense model's time, in seconds.
        wholes: share of heads kept in every layer -> the time of the model pruned so.
        alone: kind of layer -> shape -> the time of the layer by itself.
    """

    measured: MeasuredModel
    dense: Spread
    wholes: Mapping[float, Spread]
    alone: Mapping[LayerKind, Mapping[Shape, Spread]]

    @cached_property
    def curves(self) -> dict[LayerKind, dict[Shape, float]]:
        """Kind of layer -> shape -> the time that the layer takes by itself, interpolated where it was not measured."""
        return {
            kind: kind.grid.fill({shape: spread.value for shape, spread in spreads.items()})
            for kind, spreads in self.alone.items()
        }

    @property
    def anchor(self) -> float:
        """The time of a pruned model with all heads: the dense one's, unless pruning changes a layer's class."""
        return self.wholes[1.0].value if 1.0 in self.wholes else 1.0

    @cached_property
    def scale(self) -> float:
        """The layers' time within the model, as a multiple of their time by themselves.

        It is not 1, since a layer finds other data in the processor's caches, and on a busy machine short calls are
        interrupted less. It is fitted by least squares to the time that whole models save by pruning, each weighed
        by its interval, and drawn to 1, where it stays if attention takes little time or the times are noise.
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
        """The time that the model takes beside its attention layers: `anchor` less the scaled sum of the layers'."""
        return self.anchor - self.scale * self._attention(1.0)

    @cached_property
    def corrections(self) -> dict[float, float]:
        """Share of heads kept in every layer -> the model's measured time less `rest` and the scaled sum of its layers.

        One scale does not fit every share: a layer with half of its heads may find more of its data in the caches
        than a whole one. A difference within the interval of the measured time is taken for noise (positive-part
        shrinkage, James and Stein 1961).
        """
        corrections = {1.0: 0.0}
        for share, spread in self.wholes.items():
            beyond = spread.value - self.rest - self.scale * self._attention(share)
            noise = max(spread.half_width, LEAST_NOISE)
            corrections[share] = beyond * max(0.0, 1.0 - (noise / beyond) ** 2) if beyond else 0.0
        return dict(sorted(corrections.items()))

    def table(self, environment: Mapping[str, Any], ended: str) -> CostTable:
        """The `CostTable` of these layers in every shape: seconds by this fit, FLOPs and parameters as counted.

        Args:
            environment, ended: as the table holds them.
        """
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
        """The sum of the times that all layers take by themselves, with that share of their heads."""
        layers = self.measured.layers.values()
        return sum(self._sum(layer, share_of(layer, share), self.curves) for layer in layers)

    def _sum(self, layer: AttentionLayer, shape: Shape, amounts: Mapping[LayerKind, Mapping[Shape, float]]) -> float:
        """The sum of `amounts` (a call's time or FLOPs) over a layer's calls in one run of the model, in that shape."""
        return sum(count * amounts[kind][shape] for kind, count in self.measured.calls[layer.name])

    def _layer(self, layer: AttentionLayer, parameters: Mapping[Shape, int]) -> LayerCosts:
        """What a layer costs in every shape; `parameters` is shape -> how many parameters the layer has in it."""
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
        """Shape -> the layer's time within the model, never less than at a shape with no more heads and no more groups.

        That is the scaled time of the layer by itself, and of `corrections` the layer's part: what is beyond the sum of
        the layers, interpolated between shares of heads, is divided among layers by their times.
        """
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
        """The 95 % interval, in seconds, of the layer's time in the model, or (None, None) if the shape was not timed.

        Args:
            seconds: that time, as a share of the dense model's; the interval is as wide as that of the layer by itself.
        """
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
        """The measured time of the whole model with that share of its heads, beside the one that this fit predicts."""
        heads = tuple(share_of(layer, share).heads for layer in self.measured.layers.values())
        predicted = self.rest + self.scale * self._attention(share) + self.corrections[share]
        return WholeModel(heads, *self.wholes[share], predicted)
