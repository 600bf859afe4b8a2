"""What was measured, as a plain value: printed, saved, compared and asked about plans without a model."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from mha.costs.shapes import Shape, feasible_shapes, shape_of
from mha.values.documents import Kind, entry, mapping, number, numbers, sequence, text, whole_number, whole_numbers
from mha.values.errors import CostsError, PlanError
from mha.values.long_listing import shortened
from mha.values.optional_packages import needed
from mha.values.plan import HeadPlan

if TYPE_CHECKING:
    import pandas as pd

DOCUMENT = Kind("mha.CostTable", 1, "a table of costs", CostsError)

Quantity = Literal["seconds", "flops", "parameters"]


class Predicted(NamedTuple):
    """What a model pruned by a plan costs as a whole: in the quantity's unit, and as a share of the dense model.

    Example:
        >>> mha.costs.Predicted(value=0.003, share=0.75)  # 3 ms where the dense model takes 4
        Predicted(value=0.003, share=0.75)
    """

    value: float
    share: float


class ShapeCost(NamedTuple):
    """What a layer, or a model, costs in one shape.

    Attributes:
        seconds: the time of one forward pass.
        flops: the operations of its matrix products, a multiplication and an addition as two.
        parameters: how many numbers its parameters hold.
        low, high: where the measured median of the seconds lies with 95 % confidence; None where the seconds are
            interpolated.

    Example:
        >>> mha.costs.ShapeCost(seconds=0.001, flops=10080, parameters=256).low is None  # it was not timed
        True
    """

    seconds: float
    flops: int
    parameters: int
    low: float | None = None
    high: float | None = None


class WholeModel(NamedTuple):
    """A check of the table: a whole pruned model, timed beside the dense one, and what the table says of it.

    Attributes:
        heads: how many heads each layer keeps.
        measured: its time, as a share of the dense model's.
        low, high: where the median of that share lies with 95 % confidence.
        predicted: the share that the table says.

    Example:
        >>> checked = mha.costs.WholeModel(heads=(4, 4), measured=0.75, low=0.74, high=0.76, predicted=0.755)
        >>> checked.low <= checked.predicted <= checked.high
        True
    """

    heads: tuple[int, ...]
    measured: float
    low: float
    high: float
    predicted: float


@dataclass(frozen=True, repr=False)
class LayerCosts:
    """One layer at every shape that it can be pruned to.

    Attributes:
        heads: original numbers of the heads that it had when measured.
        groups: how many key/value groups they stand in.
        costs: shape -> what the layer adds to the model's cost.

    Example:
        >>> def cost(heads):
        ...     return mha.costs.ShapeCost(seconds=0.001 * heads, flops=5040 * heads, parameters=128 * heads)
        >>> costs = {mha.costs.Shape(heads, heads): cost(heads) for heads in range(3)}
        >>> mha.costs.LayerCosts(heads=(0, 1), groups=2, costs=costs)
        2 heads: 2 ms, without any 0 ms
    """

    heads: tuple[int, ...]
    groups: int
    costs: Mapping[Shape, ShapeCost]

    @property
    def whole(self) -> Shape:
        """The shape of the layer with all of its heads."""
        return Shape(len(self.heads), self.groups)

    def __repr__(self) -> str:
        whole, none = self.costs[self.whole], self.costs[Shape(0, 0)]
        groups = "" if self.groups == len(self.heads) else f" in {self.groups} groups"
        return f"{len(self.heads)} heads{groups}: {1e3 * whole.seconds:.3g} ms, without any {1e3 * none.seconds:.3g} ms"


@dataclass(frozen=True, repr=False)
class CostTable:
    """Measured seconds, and counted FLOPs and parameters, of each attention layer at each number of heads.

    The cost of a whole pruned model is a rest, which no head changes, and the sum over its layers.

    Attributes:
        layers: by name.
        dense: the whole dense model.
        rest: seconds that the model takes beside its attention layers. With the layers' it adds up to the dense
            model's seconds; where pruning changes a layer's class even if all heads stay
            (`torch.nn.MultiheadAttention` leaves its fused kernels), to those of the model of the new classes.
        scale: the layers' seconds within the model, over those of the layers timed alone; measured by
            `whole_models`. What `layers` holds is scaled already.
        whole_models: pruned models that were timed as a whole.
        environment: what it was measured on, and with which inputs.
        ended: what ended the measuring: "steady" (the intervals were narrow enough) or "time spent".

    Example:
        >>> model, x = mha.MultiHeadAttention.square(8, num_heads=2), torch.randn(3, 5, 8)
        >>> table = mha.measure_costs(model, (x, x, x), seconds=0.05, progress=False)
        >>> table.flops(mha.HeadPlan({"": [1]})).share
        0.5
        >>> table.rest_of("parameters"), table.dense.parameters
        (0, 256)
    """

    layers: Mapping[str, LayerCosts]
    dense: ShapeCost
    rest: float
    scale: float = 1.0
    whole_models: tuple[WholeModel, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    ended: str = "steady"

    def __repr__(self) -> str:
        total, rest = 1e3 * self.dense.seconds, 1e3 * self.rest
        head = f"CostTable: dense {total:.3g} ms, {self.dense.flops:.3g} FLOPs, {self.dense.parameters:,} parameters; "
        lines = [f"{name!r}: {layer}" for name, layer in self.layers.items()]
        return "\n  ".join([f"{head}beside attention {rest:.3g} ms ({self.ended})", *shortened(lines)])

    def latency(self, plan: HeadPlan) -> Predicted:
        """Seconds of one forward pass of the model pruned by this plan.

        A plan that names no layer leaves the dense model; otherwise a layer that it does not name counts as pruned
        with all of its heads.

        Raises:
            PlanError: the plan names a layer or head that is not in the table, or is not feasible.
        """
        return self._predicted("seconds", plan)

    def flops(self, plan: HeadPlan) -> Predicted:
        """Floating-point operations of one forward pass of the model pruned by this plan.

        Layers that the plan does not name count with all of their heads.

        Raises:
            PlanError: the plan names a layer or head that is not in the table, or is not feasible.
        """
        return self._predicted("flops", plan)

    def parameters(self, plan: HeadPlan) -> Predicted:
        """Parameters of the model pruned by this plan: exactly, unless layers share some.

        Layers that the plan does not name count with all of their heads.

        Raises:
            PlanError: the plan names a layer or head that is not in the table, or is not feasible.
        """
        return self._predicted("parameters", plan)

    def rest_of(self, quantity: Quantity) -> float:
        """How much of this quantity the model takes beside its attention layers."""
        if quantity == "seconds":
            return self.rest
        whole = sum(getattr(layer.costs[layer.whole], quantity) for layer in self.layers.values())
        return getattr(self.dense, quantity) - whole

    def amounts(self, quantity: Quantity) -> dict[str, dict[Shape, float]]:
        """How much of this quantity every layer adds to the model in every shape: layer name -> shape -> amount."""
        return {
            name: {shape: getattr(cost, quantity) for shape, cost in layer.costs.items()}
            for name, layer in self.layers.items()
        }

    def to_frame(self) -> "pd.DataFrame":
        """A row for each layer and shape: layer, heads, groups, seconds, flops, parameters, low, high.

        The last two are NaN where the seconds are interpolated.
        """
        needed("pandas", "plot", "to make a frame")
        import pandas as pd

        rows = [(name, *shape, *cost) for name, layer in self.layers.items() for shape, cost in layer.costs.items()]
        frame = pd.DataFrame(rows, columns=["layer", "heads", "groups", *ShapeCost._fields])
        return frame.astype({"low": float, "high": float})

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the table; the file appears whole or not at all."""
        layers = {
            name: {**asdict(layer), "costs": [[*shape, *cost] for shape, cost in layer.costs.items()]}
            for name, layer in self.layers.items()
        }
        DOCUMENT.write(path, {**asdict(self), "layers": layers})

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table that `to_json` wrote.

        Raises:
            CostsError: the file can't be read, is cut off, foreign, damaged or of another version.
        """
        document = DOCUMENT.read(path)
        with DOCUMENT.checked(path, "measure again"):
            layers = mapping(entry(document, "layers"), "layers")
            runs = sequence(entry(document, "whole_models"), "whole_models")
            return cls(
                layers={name: _layer(row, f"layer {name!r}") for name, row in layers.items()},
                dense=_dense(entry(document, "dense")),
                rest=number(entry(document, "rest"), "rest"),
                scale=number(entry(document, "scale"), "scale"),
                whole_models=tuple(_whole_model(row) for row in runs),
                environment=mapping(entry(document, "environment"), "environment"),
                ended=text(entry(document, "ended"), "ended"),
            )

    def _predicted(self, quantity: Quantity, plan: HeadPlan) -> Predicted:
        """How much of this quantity the pruned model takes: the rest, and each layer in the shape that `plan` gives it.

        Raises:
            PlanError: the plan names a layer or head that is not in the table, or is not feasible.
        """
        if unknown := [name for name in plan.keep if name not in self.layers]:
            raise PlanError(
                f"the plan names layers without measured costs: {unknown}; the table has {list(self.layers)}"
            )
        dense = getattr(self.dense, quantity)
        if not plan.keep:
            return Predicted(dense, 1.0)
        total = self.rest_of(quantity)
        for name, layer in self.layers.items():
            shape = shape_of(name, layer.heads, layer.whole, plan.keep.get(name, layer.heads))
            total += getattr(layer.costs[shape], quantity)
        return Predicted(total, total / dense if dense else 1.0)  # of what costs nothing, nothing is saved


def _dense(row: Any) -> ShapeCost:
    """What the dense model costs, from its row in a file.

    Raises:
        ValueError: the row has more or fewer entries, or other ones than numbers, or its seconds are not above 0.
    """
    dense = _cost(sequence(row, "dense", len(ShapeCost._fields)), "dense")
    if dense.seconds <= 0:
        raise ValueError(f"dense: expected seconds above 0, got {dense.seconds}")
    return dense


def _cost(row: list[Any], where: str) -> ShapeCost:
    """A cost from a row of a file, its entries in the order of `ShapeCost`; `where` is what errors call the row.

    Raises:
        ValueError: an entry is no number, or no whole number where it should be.
    """
    seconds, flops, parameters, low, high = row
    between = [None if bound is None else number(bound, where) for bound in (low, high)]
    return ShapeCost(number(seconds, where), whole_number(flops, where), whole_number(parameters, where), *between)


def _whole_model(row: Any) -> WholeModel:
    """A timed whole model, from its row in a file, whose entries are in the order of `WholeModel`.

    Raises:
        ValueError: the row has more or fewer entries, or other ones than numbers.
    """
    heads, *shares = sequence(row, "whole_models", len(WholeModel._fields))
    return WholeModel(tuple(whole_numbers(heads, "whole_models")), *numbers(shares, "whole_models"))


def _layer(row: Any, where: str) -> LayerCosts:
    """A layer's costs from a file; `where` is what errors call the layer.

    Raises:
        ValueError: an entry is missing or not of its type, the heads repeat or don't fit the groups, or not every shape
            of the layer has just one cost.
    """
    heads = tuple(whole_numbers(entry(mapping(row, where), "heads"), where))
    groups = whole_number(entry(row, "groups"), where)
    if len(set(heads)) != len(heads) or (groups == 0) != (not heads) or (groups and len(heads) % groups):
        raise ValueError(f"{where}: {list(heads)} are no distinct heads in {groups} key/value groups")
    costs = {}
    for line in sequence(entry(row, "costs"), where):
        num_heads, num_groups, *cost = sequence(line, where, 2 + len(ShapeCost._fields))
        shape = Shape(whole_number(num_heads, where), whole_number(num_groups, where))
        if shape in costs:
            raise ValueError(f"{where}: two costs for {shape}")
        costs[shape] = _cost(cost, where)
    layer = LayerCosts(heads, groups, costs)
    if wrong := set(feasible_shapes(layer.whole)) ^ costs.keys():
        raise ValueError(f"{where}: costs that are missing, or of shapes that it can't have: {sorted(wrong)}")
    return layer
