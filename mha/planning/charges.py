"""What layers cost in each shape, and what the rest of the model does."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from mha.costs import CostTable, Quantity, Shape, count_parameters, parameters_of
from mha.costs.counts import counting_together
from mha.families import AttentionLayer, find_attention
from mha.planning.feasible import Alternative
from mha.planning.tied_layers import Alike, Tie
from mha.values.errors import ScoresError

QUANTITIES: Mapping[str, Quantity] = {"latency": "seconds", "flops": "flops", "parameters": "parameters"}


class Overlap:
    """How many parameters tied layers hold together: what counting each layer by itself counts too often.

    Args:
        layers: the layers of the tie.
        counts: layer -> shape -> the layer's parameters by itself.
    """

    def __init__(self, tie: Tie, layers: Sequence[AttentionLayer], counts: Mapping[str, Mapping[Shape, float]]) -> None:
        self.tie = tie
        self._counts = {name: counts[name] for name in tie.layers}
        self._count_together = counting_together(layers)
        self._known: dict[tuple[object, ...], float] = {}
        self.whole = self.of({})

    def of(self, way: Alternative) -> float:
        """The overlap when the layers are pruned so; a layer that is not named stays whole."""
        shapes = [way[name].shape for name in self.tie.layers if name in way]
        # What layers share beside heads is by groups, which all of them keep alike.
        key = tuple(shapes[:1]) if self.tie.alike is Alike.HEADS else tuple(shape.groups for shape in shapes[:1])
        if key not in self._known:
            apart = sum(
                counts[way[name].shape] if name in way else max(counts.values())
                for name, counts in self._counts.items()
            )
            together = self._count_together({name: way[name].heads for name in self.tie.layers if name in way})
            self._known[key] = apart - together
        return self._known[key]


@dataclass(frozen=True)
class Charges:
    """What shapes cost, so that a model costs the rest and the sum over its layers.

    Attributes:
        dense: what the whole model costs with all heads.
        rest: what it costs beside attention.
        layers: layer -> shape -> cost, for all the model's layers, also those without scores.
        overlaps: what layers that share parameters save less than each would by itself.
    """

    dense: float
    rest: float
    layers: Mapping[str, Mapping[Shape, float]]
    overlaps: Sequence[Overlap] = ()

    @classmethod
    def of(cls, budget: str, model: nn.Module | None, costs: CostTable | None, ties: Sequence[Tie] = ()) -> "Charges":
        """What a budget counts: by the costs that were measured, or, for parameters alone, on the model.

        Raises:
            ScoresError: what it takes is missing.
        """
        if costs is not None and not (budget == "parameters" and ties):
            quantity = QUANTITIES[budget]
            return cls(getattr(costs.dense, quantity), costs.rest_of(quantity), costs.amounts(quantity))
        if budget != "parameters":
            raise ScoresError(
                f"{budget} needs measured costs: choose(…, {budget}=…, costs=mha.measure_costs(model, args))"
            )
        if model is None:
            raise ScoresError("parameters needs the model, or its costs: choose(…, parameters=…, model=model)")
        attention = find_attention(model)
        dense, layers = parameters_of(model), count_parameters(attention)
        overlaps = [Overlap(tie, [attention[name] for name in tie.layers], layers) for tie in ties]
        return cls(dense, dense - sum(max(layer.values()) for layer in layers.values()), layers, overlaps)

    def besides(self, scored: Iterable[str]) -> float:
        """What the model costs beside the layers that are scored."""
        without = self.layers.keys() - set(scored)
        return self.rest + sum(max(layer.values()) for name, layer in self.layers.items() if name in without)

    def of_layers(self, way: Alternative) -> float:
        """What these layers cost when they are pruned so."""
        cost = sum(self.layers[name][choice.shape] for name, choice in way.items())
        overlaps = [overlap for overlap in self.overlaps if not way.keys().isdisjoint(overlap.tie.layers)]
        return cost + sum(overlap.whole - overlap.of(way) for overlap in overlaps)
