"""How much a head's context varies, weighed by the columns that read it (FLAP, An et al. 2024)."""

import torch
from torch import Tensor

from mha.families.base.linears import weight_of
from mha.importance.criteria.magnitude import per_head
from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.importance.running.context import moments


@register_criterion("fluctuation", needs="context", comparable=False, additive=True)
def fluctuation(calibration: Calibration, *, normalize: bool = False) -> dict[str, Tensor]:
    """How much the head's context varies, weighed by the columns that read it: Σ_j Var(x_j) ‖W_o[:,j]‖².

    The sum is over the head's columns j of the output projection (equation 5 of the paper, summed over a head).
    The variance is over all tokens of all examples, padding included. What does not vary can be made up for by a
    bias, which is what `mha.compensate` does.

    Args:
        normalize: standardise each layer's scores, (s - mean) / standard deviation, as the paper does.
    """
    layer_moments = moments(calibration, full=False)
    rows = {}
    for name, layer in calibration.layers.items():
        squares = weight_of(layer.output).square().sum(dim=0)
        seen = layer_moments.get(name)
        variance = torch.zeros_like(squares) if seen is None else seen.scatter / max(seen.count - 1, 1)
        rows[name] = per_head(variance * squares, layer).cpu()
    return {name: _standardised(row) for name, row in rows.items()} if normalize else rows


def _standardised(row: Tensor) -> Tensor:
    """The row, less its mean and divided by its standard deviation; zeros where all entries are alike, or only one."""
    if len(row) < 2 or not row.std() > 0:
        return torch.zeros_like(row)
    return (row - row.mean()) / row.std()
