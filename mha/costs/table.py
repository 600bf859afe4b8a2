"""What was measured, as a plain value: printed, saved, compared and asked about plans without a model."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from mha.costs.shapes import Shape, feasible_shapes, shape_of
from mha.errors import CostsError, PlanError
from mha.files import appears_whole
from mha.heads import HeadPlan

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "mha.CostTable"
VERSION = 1

Quantity = Literal["seconds", "flops", "parameters"]


class Predicted(NamedTuple):
    """What a plan's whole model costs: in the quantity's own unit, and as a share of the dense model."""

    value: float
    share: float


class ShapeCost(NamedTuple):
    """What a layer, or a model, costs in one shape.

    Attributes:
        seconds: of one forward pass.
        flops: matrix products only, a multiplication and an addition as two.
        low, high: where the measured median of the seconds lies with 95 % confidence; None where the seconds are
            interpolated.
    """

    seconds: float
    flops: int
    parameters: int
    low: float | None = None
    high: float | None = None


class WholeModel(NamedTuple):
    """A check of the table: a whole pruned model, timed beside the dense one, and what the table says of it."""

    heads: tuple[int, ...]  # kept in each layer
    measured: float  # share of the dense model's seconds
    low: float
    high: float
    predicted: float


@dataclass(frozen=True)
class LayerCosts:
    """One layer at every shape that it can be pruned to.

    Attributes:
        heads: original numbers of the heads that it had when measured.
        groups: how many key/value groups they stand in.
        costs: shape -> what the layer adds to the model's cost.
    """

    heads: tuple[int, ...]
    groups: int
    costs: Mapping[Shape, ShapeCost]

    @property
    def whole(self) -> Shape:
        return Shape(len(self.heads), self.groups)


@dataclass(frozen=True)
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
    """

    layers: Mapping[str, LayerCosts]
    dense: ShapeCost
    rest: float
    scale: float = 1.0
    whole_models: tuple[WholeModel, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    ended: str = "steady"

    def latency(self, plan: HeadPlan) -> Predicted:
        """Seconds of one forward pass of the model pruned by this plan.

        A plan that names no layer leaves the dense model; otherwise a layer that it does not name counts as pruned
        with all of its heads.

        Raises:
            PlanError: the plan names a layer or head that is not in the table, or is not feasible.
        """
        return self._predicted("seconds", plan)

    def flops(self, plan: HeadPlan) -> Predicted:
        """Floating-point operations of one forward pass; see `latency`."""
        return self._predicted("flops", plan)

    def parameters(self, plan: HeadPlan) -> Predicted:
        """Parameters of the model pruned by this plan, exactly; see `latency`."""
        return self._predicted("parameters", plan)

    def rest_of(self, quantity: Quantity) -> float:
        """What the model costs beside its attention layers."""
        if quantity == "seconds":
            return self.rest
        whole = sum(getattr(layer.costs[layer.whole], quantity) for layer in self.layers.values())
        return getattr(self.dense, quantity) - whole

    def amounts(self, quantity: Quantity) -> dict[str, dict[Shape, float]]:
        """Layer -> shape -> what the layer adds."""
        return {
            name: {shape: getattr(cost, quantity) for shape, cost in layer.costs.items()}
            for name, layer in self.layers.items()
        }

    def to_frame(self) -> "pd.DataFrame":
        """A tidy frame: layer, heads, groups, seconds, flops, parameters, low, high (NaN where interpolated)."""
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
        document = {"format": FORMAT, "version": VERSION, **asdict(self), "layers": layers}
        with appears_whole(path) as temporary:
            temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table that `to_json` wrote.

        Raises:
            CostsError: the file is cut off, foreign, damaged or of another version.
        """
        document = _document(Path(path))
        try:
            return cls(
                layers={name: _layer(row) for name, row in document["layers"].items()},
                dense=ShapeCost(*document["dense"]),
                rest=float(document["rest"]),
                scale=float(document["scale"]),
                whole_models=tuple(WholeModel(tuple(row[0]), *row[1:]) for row in document["whole_models"]),
                environment=document["environment"],
                ended=document["ended"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CostsError(
                f"{path}: a damaged table of costs ({type(error).__name__}: {error}); measure again"
            ) from error

    def _predicted(self, quantity: Quantity, plan: HeadPlan) -> Predicted:
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
        return Predicted(total, total / dense)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CostsError(f"{path}: not a table of costs, or cut off in the middle ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CostsError(f'{path}: not a table of costs: expected a JSON object with "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        raise CostsError(
            f"{path}: version {document.get('version')!r} of the format; this release reads version {VERSION}"
        )
    return document


def _layer(row: Mapping[str, Any]) -> LayerCosts:
    costs = {Shape(*entry[:2]): ShapeCost(*entry[2:]) for entry in row["costs"]}
    layer = LayerCosts(tuple(row["heads"]), row["groups"], costs)
    if missing := set(feasible_shapes(layer.whole)) - costs.keys():
        raise ValueError(f"no costs for {sorted(missing)}")
    return layer
