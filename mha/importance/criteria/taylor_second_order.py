"""What the loss would do to second order without the head."""

from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.importance.running.gradients import Unit, mean_over_units
from mha.importance.running.scored import Scored


@register_criterion("taylor_second_order", needs="gradients", additive=True)
def taylor_second_order(calibration: Calibration, *, unit: Unit = "example") -> Scored:
    """What the loss would rise by to second order without the head: -E[g] + ½ H_hh, with H_hh ≈ E[g²].

    It approximates L(ξ_h = 0) - L(ξ = 1), the Hessian H taken from the empirical Fisher information.
    g is the gradient ∂L(x)/∂ξ_h of one example's loss, which must be a negative log-likelihood for the Fisher to
    stand for the Hessian. Nothing is scaled by hand.

    Args:
        unit: "example": the Hessian of a mean over examples is the mean of theirs, E[g²] over examples. "batch": the
            gradient of a batch is the mean over its n examples; if these are independent, with mean 0, its square is
            E[g²]/n on average, so H_hh ≈ E[n g²] over batches. "token": the tokens of an example are taken to be
            independent; its g² is the sum of theirs.

    Raises:
        CalibrationError: the unit is "example" and the context does not have the examples first, or the loss does
            not decompose over examples.
    """
    rows, examples = mean_over_units(calibration, unit, _increase)
    return Scored(rows, examples)


def _increase(gradients: Tensor, examples: int) -> Tensor:
    """The sum over units of -g + ½ n g² (h,), for gradients g (units, h) of units with n examples each."""
    return (-gradients + 0.5 * examples * gradients.square()).sum(dim=0)
