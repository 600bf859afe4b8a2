"""The empirical Fisher information of the gates (Kwon et al. 2022)."""

from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.importance.running.gradients import Unit, mean_over_units
from mha.importance.running.scored import Scored


@register_criterion("fisher", needs="gradients", additive=True)
def fisher(calibration: Calibration, *, unit: Unit = "example") -> Scored:
    """The empirical Fisher information of the head's gate: the mean square of the loss's gradient, E[g_h²].

    g_h = ∂L/∂ξ_h is the gradient by the gate (equation 8 of the paper, up to a factor that ranks nothing).
    The scores come with the Fisher's blocks within the layers, E[g gᵀ]: removing the set S of a layer's heads costs
    the sum of the block over S × S, and `mha.choose` rearranges within each layer by it (section 4.2 of the paper).

    Args:
        unit: whose gradient is squared: "example"; "batch", as in the paper's code, each batch weighted by its
            examples; or "token".

    Raises:
        CalibrationError: the unit is "example" and the context does not have the examples first, or the loss does
            not decompose over examples.
    """
    blocks, examples = mean_over_units(calibration, unit, _block)
    return Scored({name: block.diagonal() for name, block in blocks.items()}, examples, interactions=blocks)


def _block(gradients: Tensor, _examples: int) -> Tensor:
    """The sum over units of g gᵀ (h, h), for gradients g (units, h)."""
    return gradients.T @ gradients
