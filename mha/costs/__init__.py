"""What attention layers cost at each number of heads: seconds measured, FLOPs and parameters counted."""

from mha.costs.counts import Flops, count_flops, count_parameters, parameters_of
from mha.costs.measure import measure_costs
from mha.costs.shapes import Shape, feasible_shapes
from mha.costs.table import CostTable, LayerCosts, Predicted, Quantity, ShapeCost, WholeModel

__all__ = [
    "CostTable",
    "Flops",
    "LayerCosts",
    "Predicted",
    "Quantity",
    "Shape",
    "ShapeCost",
    "WholeModel",
    "count_flops",
    "count_parameters",
    "feasible_shapes",
    "measure_costs",
    "parameters_of",
]
