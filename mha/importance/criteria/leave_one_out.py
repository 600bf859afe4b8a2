"""What the loss does when one head is switched off: the reference for every cheaper criterion."""

import torch

from mha.importance.registry import register_criterion
from mha.importance.running.ablation import Ablation, BatchNotes
from mha.importance.running.calibration import Calibration
from mha.importance.running.racing import race
from mha.importance.running.scored import Scored


@register_criterion("leave_one_out", needs="outputs")
def leave_one_out(
    calibration: Calibration, *, reuse: bool = True, racing: bool = False, budget: float = 0.25
) -> Scored:
    """What the loss rises by without the head, L(ξ_h = 0) - L(ξ = 1); negative for a head that hurts.

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
        all_off = {name: torch.zeros(layer.num_heads) for name, layer in calibration.with_heads.items()}
        dense = calibration.mean_loss()
        if all_off:
            calibration.check_depends(dense, calibration.mean_loss(all_off))
    return scored


def _every_head(calibration: Calibration, ablation: Ablation) -> Scored:
    """Exact scores, from running every batch without each head, except where the journal has the result already."""
    positions: dict[str, list[int]] = {}
    for name, position in calibration.present():
        positions.setdefault(name, []).append(position)
    total, examples, expected = calibration.zeros(), 0, False
    for batch in calibration.each_batch():
        notes, before = BatchNotes(calibration, batch.number, positions), calibration.meter.forward
        if notes.missing() or not positions:
            rises = ablation.rises(batch, notes.missing(), notes)
            if not expected:
                calibration.expect(round(calibration.meter.forward - before))
            expected = True
        for name in positions:
            total[name][positions[name]] += notes.rises(name) * notes.examples(name)
        examples += notes.examples(next(iter(positions))) if positions else rises.examples
    return Scored({name: row / examples for name, row in total.items()}, examples)
