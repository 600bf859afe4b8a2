"""What each layer costs in each shape, and what the rest of the model costs."""

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
    """How many parameters are counted too often when tied layers, which share some, are counted each by itself.

    Args:
        tie: which layers share parameters.
        layers: the layers of the tie.
        counts: layer -> shape -> how many parameters the layer has by itself.

    Attributes:
        whole: how many are counted too often when all of these layers keep all heads.
    """

    def __init__(self, tie: Tie, layers: Sequence[AttentionLayer], counts: Mapping[str, Mapping[Shape, float]]) -> None:
        self.tie = tie
        self._counts = {name: counts[name] for name in tie.layers}
        self._count_together = counting_together(layers)
        self._known: dict[tuple[object, ...], float] = {}
        self.whole = self.of({})

    def of(self, way: Alternative) -> float:
        """How many parameters are counted too often when layers are pruned in this way; those not named stay whole.

        Args:
            way: layer -> its shape and the heads that stay; layers outside of the tie are ignored.
        """
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
    """What a model costs: each layer by its shape, and a rest, which add up to the cost of the whole.

    Attributes:
        dense: what the whole model costs with all heads.
        rest: what the model costs beside attention.
        layers: layer -> shape -> cost, for all the model's layers, also those without scores.
        overlaps: for each set of layers that share parameters, how many parameters `layers` counts too often.
    """

    dense: float
    rest: float
    layers: Mapping[str, Mapping[Shape, float]]
    overlaps: Sequence[Overlap] = ()

    @classmethod
    def of(cls, budget: str, model: nn.Module | None, costs: CostTable | None, ties: Sequence[Tie] = ()) -> "Charges":
        """The charges in what a budget limits: by the measured costs, or, for parameters, as counted on the model.

        Args:
            budget: "latency", "flops" or "parameters".

        Raises:
            ScoresError: the measured costs are missing, or, for parameters, both they and the model.
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
        """What the model costs without the layers named in `scored`: the rest, and every other layer as a whole."""
        without = self.layers.keys() - set(scored)
        return self.rest + sum(max(layer.values()) for name, layer in self.layers.items() if name in without)

    def of_layers(self, way: Alternative) -> float:
        """What the layers that `way` names cost in the shapes that it gives them; shared parameters count once."""
        cost = sum(self.layers[name][choice.shape] for name, choice in way.items())
        overlaps = [overlap for overlap in self.overlaps if not way.keys().isdisjoint(overlap.tie.layers)]
        return cost + sum(overlap.whole - overlap.of(way) for overlap in overlaps)
