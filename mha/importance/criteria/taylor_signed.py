"""What the loss would do to first order without the head: the sign says whether it helps."""

from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.importance.running.gradients import Unit, mean_over_units
from mha.importance.running.scored import Scored


@register_criterion("taylor_signed", needs="gradients", additive=True)
def taylor_signed(calibration: Calibration, *, unit: Unit = "batch") -> Scored:
    """What the loss would rise by to first order without the head, -∂L/∂ξ_h; negative for a head that hurts.

    It approximates L(ξ_h = 0) - L(ξ = 1).

    Args:
        unit: makes no difference to a mean over examples, since no absolute value is taken; "batch" asks nothing of
            the model's layout and of the loss.
    """
    rows, examples = mean_over_units(calibration, unit, _rise)
    return Scored(rows, examples)


def _rise(gradients: Tensor, _examples: int) -> Tensor:
    """The sum over units of -g (h,), for gradients g (units, h)."""
    return -gradients.sum(dim=0)
