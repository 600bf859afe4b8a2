"""How far the loss would move to first order without a head, up or down (Michel, Levy and Neubig 2019)."""

import torch
from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.importance.running.gradients import Unit, mean_over_units
from mha.importance.running.scored import Scored


@register_criterion("taylor", needs="gradients", additive=True)
def taylor(calibration: Calibration, *, unit: Unit = "example", normalize: bool = False) -> Scored:
    """How far the loss would move to first order, up or down, without the head: I_h = E_x |∂L(x)/∂ξ_h|.

    The formula is that of section 4.1 of the paper.

    Args:
        unit: whose gradient the absolute value is taken of: "example", as in the paper; "token", each token of
            the context, summed over an example; "batch", where the model's layout or the loss allows no other.
        normalize: divide each layer's scores by their ℓ2 norm, as the paper does. It makes every layer equally
            important as a whole, so a layer in which nothing matters can't rank low; off by default.

    Raises:
        CalibrationError: the unit is "example" and the context does not have the examples first, or the loss does
            not decompose over examples.
    """
    rows, examples = mean_over_units(calibration, unit, _size)
    if normalize:
        return Scored({name: _unit(row) for name, row in rows.items()})
    return Scored(rows, examples)


def _size(gradients: Tensor, _examples: int) -> Tensor:
    """The sum over units of |g| (h,), for gradients g (units, h)."""
    return gradients.abs().sum(dim=0)


def _unit(row: Tensor) -> Tensor:
    """The row divided by its ℓ2 norm."""
    norm = torch.linalg.vector_norm(row)
    return row / norm if norm > 0 else row
