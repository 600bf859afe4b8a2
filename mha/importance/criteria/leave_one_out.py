"""What the loss does when one head is switched off: the reference for every cheaper criterion."""

import torch

from mha.importance.registry import criterion
from mha.importance.running.ablation import Ablation, Noted
from mha.importance.running.calibration import Calibration
from mha.importance.running.racing import race
from mha.importance.running.scored import Scored
from mha.values.errors import CalibrationError


@criterion("leave_one_out", needs="outputs")
def leave_one_out(
    calibration: Calibration, *, reuse: bool = True, racing: bool = False, budget: float = 0.25
) -> Scored:
    """L(ξ_h = 0) - L(ξ = 1) over the calibration set; negative for a head that hurts.

    The loss need not be differentiable. It is computed for every batch without every head, but what precedes a layer
    only once for all of its heads.

    Args:
        reuse: False makes every pass as a whole, without relying on a record of what precedes the layer.
        racing: estimate what can't be had exactly within the budget (`mha.importance.running.racing`). Takes a dozen
            batches or more.
        budget: of a race: share of the passes that leaving every head out of every batch would take.

    Raises:
        CalibrationError: not even switching every head off changes the loss; a budget that can't be met.
    """
    ablation = Ablation(calibration, reuse=reuse)
    scored = race(calibration, ablation, budget) if racing else _every_head(calibration, ablation)
    if not calibration.removed and not any(row.any() for row in scored.rows.values()):
        _check_depends(calibration)
    return scored


def _every_head(calibration: Calibration, ablation: Ablation) -> Scored:
    heads: dict[str, list[int]] = {}
    for name, head in calibration.present():
        heads.setdefault(name, []).append(head)
    total = {name: torch.zeros(layer.num_heads, dtype=torch.float64) for name, layer in calibration.layers.items()}
    examples, told = 0, False
    for one in calibration.passes():
        noted, before = Noted(calibration, one.number, heads), calibration.meter.forward
        if noted.missing() or not heads:
            ablation.rises(one, noted.missing(), noted)
            if not told:
                calibration.expect(round(calibration.meter.forward - before))
            told = True
        for name in heads:
            total[name][heads[name]] += noted.rises(name) * noted.examples(name)
        examples += noted.examples(next(iter(heads))) if heads else one.examples
    return Scored({name: row / examples for name, row in total.items()}, examples)


def _check_depends(calibration: Calibration) -> None:
    all_off = {name: torch.zeros(layer.num_heads) for name, layer in calibration.with_heads.items()}
    dense = calibration.mean_loss()
    if all_off and calibration.mean_loss(all_off) == dense:
        raise CalibrationError(
            f"the loss is {dense:.6g} with all heads and with none: on these batches it does not depend on the "
            "model's attention"
        )
