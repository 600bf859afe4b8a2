"""What the loss does when one head is switched off: the reference for every cheaper criterion."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.ablation import Ablation, BatchNotes
from mha.importance.running.batch import CalibrationBatch
from mha.importance.running.calibration import Calibration, Sums, added
from mha.importance.running.racing import race
from mha.importance.running.scored import Scored


@register_criterion("leave_one_out", needs="outputs", additive=True, unless="racing")
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
    if racing:
        scored = race(calibration, Ablation(calibration, reuse=reuse), budget)
    else:
        sums = calibration.summed(_RiseSums(reuse))
        scored = Scored({name: row / sums.examples for name, row in sums.total.items()}, sums.examples)
    if not calibration.removed and not any(row.any() for row in scored.rows.values()):
        all_off = {name: torch.zeros(layer.num_heads) for name, layer in calibration.with_heads.items()}
        dense = calibration.mean_loss()
        if all_off:
            calibration.check_depends(dense, calibration.mean_loss(all_off))
    return scored


@dataclass
class _RiseSums(Sums):
    """The sums over examples of what the loss rises by without each head, except what the journal has already.

    Attributes:
        reuse: as in `leave_one_out`.
        total: layer name -> (h,), the sum.
        examples: how many there are.
    """

    reuse: bool
    total: dict[str, Tensor] = field(default_factory=dict)
    examples: int = 0
    _ablation: Ablation | None = None  # knows of the batches before whether the model can be replayed

    def add(self, calibration: Calibration, batch: CalibrationBatch) -> None:
        positions: dict[str, list[int]] = {}
        for name, position in calibration.present():
            positions.setdefault(name, []).append(position)
        self.total = self.total or calibration.zeros()
        notes, before = BatchNotes(calibration, batch.number, positions), calibration.meter.forward
        if notes.missing() or not positions:
            first = self._ablation is None
            self._ablation = self._ablation or Ablation(calibration, reuse=self.reuse)
            rises = self._ablation.rises(batch, notes.missing(), notes)
            if first:
                calibration.expect(round(calibration.meter.forward - before))
        for name in positions:
            self.total[name][positions[name]] += notes.rises(name) * notes.examples(name)
        self.examples += notes.examples(next(iter(positions))) if positions else rises.examples

    def __add__(self, other: Self) -> Self:
        return type(self)(self.reuse, added(self.total, other.total), self.examples + other.examples)

    def __getstate__(self) -> Mapping[str, Any]:
        return {**vars(self), "_ablation": None}  # it holds the model
