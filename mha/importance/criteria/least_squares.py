"""What the layer's output loses without the head when the output projection is solved again for the others.

Optimal brain surgeon for whole heads: OSSCAR (Meng et al. 2024), ZipLM (Kurtić et al. 2023).
"""

import logging

import torch
from torch import Tensor

from mha.families import AttentionLayer
from mha.families.base.linears import weight_of
from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.importance.running.context import Moments, moments
from mha.values.errors import CalibrationError
from mha.values.layout import owners

LOGGER = logging.getLogger(__name__)
SINGULAR = 1e-12  # a smaller eigenvalue, relative to the largest, can't be told from 0 in float64


@register_criterion("least_squares", needs="context", comparable=False, additive=True)
def least_squares(
    calibration: Calibration, *, damping: float = 1e-6, intercept: bool = False, normalize: bool = False
) -> dict[str, Tensor]:
    """What the layer's output loses without the head when the output projection is solved again for the others.

    That is ½ tr(W_hᵀ [(H⁻¹)_hh]⁻¹ W_h), H = XᵀX / n over the n tokens' context X (rows), W the projection,
    transposed: the minimum of ½‖X (W - W')‖² / n over W' with W'_h = 0. All in float64; padding counts as tokens.

    Args:
        damping: added to H's diagonal, as a share of the diagonal's mean. Where H is singular without it (fewer
            tokens than columns, or columns that others determine), a logged warning says so.
        intercept: solve the bias of the projection again, too: H is then the covariance.
        normalize: divide by ½ tr(Wᵀ H W), the layer's whole output: a share, the same for a layer of large and of
            small outputs.

    Raises:
        CalibrationError: a damping below 0, or one of 0 where H is singular.
    """
    if not damping >= 0:
        raise CalibrationError(
            f"damping is a share of the mean of the Gram matrix's diagonal, 0 or more; got {damping}"
        )
    layer_moments = moments(calibration, full=True)
    rows, singular = {}, []
    for name, layer in calibration.layers.items():
        rows[name] = torch.zeros(layer.num_heads, dtype=torch.float64)
        if name not in layer_moments:
            continue
        gram = _gram(layer_moments[name], intercept)
        rank = _rank(gram)
        if rank < int((gram.diagonal() > 0).sum()):
            singular.append(f"{name!r} (rank {rank} of {len(gram)} over {layer_moments[name].count} positions)")
            if not damping:
                raise CalibrationError(
                    f"layer {singular[0]}: the Gram matrix of its context is singular; give more calibration data or "
                    "a damping above 0"
                )
        rows[name] = _costs(layer, gram, damping, normalize).cpu()
    if singular and not calibration.removed:
        LOGGER.warning(
            "least_squares: the Gram matrix of the context is singular in %s; damped by %g of its mean diagonal. More "
            "calibration data may help",
            ", ".join(singular),
            damping,
        )
    return rows


def _gram(seen: Moments, intercept: bool) -> Tensor:
    """The mean of x xᵀ over the rows x of a layer's context; with `intercept`, of their deviations from the mean."""
    around = torch.zeros_like(seen.scatter) if intercept else torch.outer(seen.mean, seen.mean)
    return seen.scatter / seen.count + around


def _rank(gram: Tensor) -> int:
    """The numerical rank of the matrix: how many of its eigenvalues can be told from 0."""
    values = torch.linalg.eigvalsh(gram)
    return int((values > SINGULAR * values[-1].clamp(min=0)).sum()) if len(values) and values[-1] > 0 else 0


def _costs(layer: AttentionLayer, gram: Tensor, damping: float, normalize: bool) -> Tensor:
    """The scores (h,) of a layer's heads, from H of its context; columns that are always zero there take no part.

    `damping` and `normalize` are those of `least_squares`.
    """
    weight = weight_of(layer.output).T.to(gram)
    owner = owners(layer.context_axis, layer.sizes).to(gram.device)
    alive = gram.diagonal() > 0
    costs = gram.new_zeros(layer.num_heads)
    if not alive.any():
        return costs
    weight, owner, gram = weight[alive], owner[alive], gram[alive][:, alive]
    damped = gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    for head in owner.unique().tolist():
        own = owner == head
        columns = weight[own]
        costs[head] = 0.5 * (columns * torch.linalg.solve(inverse[own][:, own], columns)).sum()
    if normalize:
        costs /= 0.5 * (weight * (gram @ weight)).sum().clamp(min=torch.finfo(torch.float64).tiny)
    return costs
