"""What the loss does when one head is switched off: the reference for every cheaper criterion."""

import torch
from torch import Tensor

from mha.errors import CalibrationError
from mha.importance.calibration import Calibration
from mha.importance.registry import criterion
from mha.importance.scored import Scored


@criterion("leave_one_out", needs="outputs")
def leave_one_out(calibration: Calibration) -> Scored:
    """L(ξ_h = 0) - L(ξ = 1) over the calibration set; negative for a head that hurts.

    Takes a pass over the data for every head. The loss need not be differentiable.

    Raises:
        CalibrationError: not even switching every head off changes the loss.
    """
    dense, examples = calibration.mean_loss_and_examples()
    scores = {
        name: torch.tensor(
            [calibration.mean_loss({name: _without(layer.num_heads, head)}) - dense for head in range(layer.num_heads)],
            dtype=torch.float64,
        )
        for name, layer in calibration.layers.items()
    }
    if not calibration.removed and not any(row.any() for row in scores.values()):
        _check_depends(calibration, dense)
    return Scored(scores, examples)


def _without(heads: int, head: int) -> Tensor:
    gate = torch.ones(heads)
    gate[head] = 0.0
    return gate


def _check_depends(calibration: Calibration, dense: float) -> None:
    all_off = {name: torch.zeros(layer.num_heads) for name, layer in calibration.with_heads.items()}
    if all_off and calibration.mean_loss(all_off) == dense:
        raise CalibrationError(
            f"the loss is {dense:.6g} with all heads and with none: on these batches it does not depend on the "
            "model's attention"
        )
