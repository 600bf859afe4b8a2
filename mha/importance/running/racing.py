"""Leave-one-out within a budget: heads whose rank is clear leave early, the others go on.

A first-order estimate of all heads' leave-one-out scores costs one backward pass per batch (Molchanov et al. 2017;
Michel et al. 2019, here with its sign). Alone it ranks badly, but it is wrong by much the same on every batch. So it
is taken on all batches, and corrected by what it was wrong by on those batches on which heads were really left out:
the difference estimator of survey sampling (Särndal, Swensson and Wretman 1992, section 6.3). Letting candidates
go as soon as more batches would tell little is a race (Maron and Moore 1994).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mha.importance.running.ablation import Ablation
from mha.importance.running.batch import CalibrationBatch
from mha.importance.running.calibration import Calibration, reseed
from mha.importance.running.scored import Scored
from mha.values.errors import CalibrationError

BACKWARD = 2.0  # forward passes that a backward pass is counted as
OVERHEAD = 1.5  # forward passes per batch besides those without a head: the dense one, and a check
FEWEST = 3  # batches that all heads see, if the budget allows; their errors are not known before
PACE = 1 / 3  # the heads that go on could be afforded on this share of the batches to come


def race(calibration: Calibration, ablation: Ablation, budget: float) -> Scored:
    """Leave-one-out scores, estimated with at most a share `budget` of the passes that leaving every head out takes.

    The batches with the highest dense loss come first: there the estimate is most often wrong. After each batch those
    heads go on whose rank is the least certain. The first-order estimates alone take three passes per batch, so that
    a race pays from about two dozen heads on. The result's `errors` are standard errors from the few batches
    that the head was left out of, as if they came in random order: too small where single examples weigh much; 0
    for a head that saw all batches. Holds all batches at the same time.

    Raises:
        CalibrationError: a budget that is not above 0 and up to 1, or that is too small for two batches; the error says
            which would be enough.
    """
    if not isinstance(budget, int | float) or not 0 < budget <= 1:
        raise CalibrationError(f"budget is a share of the passes, above 0 and up to 1; got {budget!r}")
    places, batches = calibration.present(), list(calibration.each_batch())
    if not places:
        return Scored(calibration.zeros())
    purse = _Purse(calibration, budget, (len(places) + 1) * len(batches))
    slopes = [_slopes(calibration, batch) for batch in batches]
    examples = [slope.examples for slope in slopes]
    standings = Standings(torch.stack([slope.row for slope in slopes]), torch.tensor(examples, dtype=torch.float64))
    running = list(range(len(places)))
    for seen, number in enumerate(sorted(range(len(batches)), key=lambda number: -slopes[number].dense), start=1):
        standings.update(number, running, _rises(calibration, ablation, batches[number], running))
        left = len(batches) - seen
        costs = [ablation.share(name) for name, _ in places]
        if seen >= FEWEST:
            afford = purse.left() / max(1, round(left * PACE)) - OVERHEAD
            running = _within(afford, standings.least_certain(running), costs)
        wanted = OVERHEAD + sum(costs[column] for column in running) if left else 0.0
        if seen == 1:
            purse.check(wanted)
        if not running or purse.left() < wanted:
            break
    return Scored(calibration.by_layer(standings.estimate), sum(examples), errors=calibration.by_layer(standings.error))


class _Purse:
    """What may still be spent on a race, in forward passes.

    Args:
        budget: the share of `whole` that may be spent.
        whole: how many forward passes it takes to run every batch with all heads, and without each.
    """

    def __init__(self, calibration: Calibration, budget: float, whole: int) -> None:
        self._meter, self._budget, self._whole = calibration.meter, budget, whole
        self._before = self._counted()
        self._meter.expect(math.ceil(budget * whole))

    def left(self) -> float:
        """Forward passes that may still be made."""
        return self._budget * self._whole - (self._counted() - self._before)

    def check(self, wanted: float) -> None:
        """Check that so many forward passes are left.

        Raises:
            CalibrationError: fewer are left; says which budget would do.
        """
        if self.left() < wanted:
            needed = self._budget + (wanted - self.left()) / self._whole
            raise CalibrationError(
                f"racing takes at least {needed:.2f} of the passes that leaving every head out would take here, above "
                f"budget={self._budget:g}: raise that, give more and smaller batches, or score exactly (racing=False)"
            )

    def _counted(self) -> float:
        """Forward passes made so far, a backward pass counted as two."""
        return self._meter.forward + BACKWARD * self._meter.backward


class Standings:
    """What is known so far of the heads in a race. Column i is head i of `Calibration.present`.

    Args:
        slopes: (n, h), the first-order estimates on n batches.
        examples: (n,), how many examples each batch has.

    Attributes:
        estimate: (h,), each head's estimated score, which is a mean over all batches.
        error: (h,), the standard error of each estimate.
    """

    def __init__(self, slopes: Tensor, examples: Tensor) -> None:
        self._slopes = slopes
        self._weights = examples / examples.sum()
        self._seen: list[int] = []
        self._missed = torch.zeros_like(slopes)  # rise less slope, in the order of the race
        self.estimate = self._weights @ slopes
        self.error = torch.full_like(self.estimate, math.inf)

    def update(self, number: int, columns: Sequence[int], rises: Tensor) -> None:
        """Refine the estimates and errors of some heads, once these have really been left out on one more batch.

        Args:
            number: of the batch, a row of `slopes`.
            columns: the heads.
            rises: (n,), what the batch's loss rose by without each of them, in their order.
        """
        batches = len(self._slopes)
        self._missed[len(self._seen), columns] = rises - self._slopes[number, columns]
        self._seen.append(number)
        seen = len(self._seen)
        weights, missed = self._weights[self._seen], self._missed[:seen, columns]
        self.estimate[columns] = self._weights @ self._slopes[:, columns] + weights @ missed / weights.sum()
        if seen > 1:
            self.error[columns] = missed.std(dim=0) * math.sqrt((1 - seen / batches) / seen)
        elif batches == 1:
            self.error[columns] = 0.0

    def least_certain(self, columns: Sequence[int]) -> list[int]:
        """These heads, sorted by how many other heads of the model each is expected to be ranked on the wrong side of.

        Those with the most come first. Estimates are taken to be normally distributed, with the standard errors.
        """
        apart = (self.estimate[:, None] - self.estimate).abs()
        error = torch.hypot(self.error[:, None], self.error)
        wrong = torch.where(error > 0, 0.5 * torch.erfc(apart / (math.sqrt(2) * error)), 0.0).sum(dim=1)
        return sorted(columns, key=lambda column: -wrong[column].item())


def _within(afford: float, columns: Sequence[int], costs: Sequence[float]) -> list[int]:
    """The first of these heads, as many as cost at most `afford` passes together, in ascending order.

    Args:
        columns: the heads, those that are to go on most first.
        costs: for each head of the race how many forward passes leaving it out takes on a batch, a share of one.
    """
    sums = torch.tensor([costs[column] for column in columns]).cumsum(0)
    return sorted(columns[: int((sums <= afford).sum())])


@dataclass(frozen=True)
class _Slopes:
    """What one backward pass tells of a batch.

    Attributes:
        dense: the loss with all heads.
        row: (h,), what the loss rises by to first order without each head; 0 where there are no gradients.
        examples: how many examples the batch has.
    """

    dense: float
    row: Tensor
    examples: int


def _slopes(calibration: Calibration, batch: CalibrationBatch) -> _Slopes:
    """Run the batch with all heads, forward and backward, and return its loss and first-order estimates.

    Raises:
        CalibrationError: the loss can't be computed, sees none of the heads, or has a derivative that is not finite.
    """
    gates = {
        name: torch.ones(layer.num_heads, dtype=torch.float64, requires_grad=True)
        for name, layer in calibration.with_heads.items()
    }
    reseed(calibration.seed)
    places = calibration.present()
    with batch.run(gates) as loss:
        if not loss.value.requires_grad:
            return _Slopes(loss.value.item(), torch.zeros(len(places), dtype=torch.float64), loss.examples)
        gradients = batch.gradients(loss, gates)
    row = -torch.stack([gradients[name][position] for name, position in places])
    return _Slopes(loss.value.item(), row, loss.examples)


def _rises(calibration: Calibration, ablation: Ablation, batch: CalibrationBatch, numbers: Sequence[int]) -> Tensor:
    """(n,): what the loss of a batch rises by without each of these heads, in their order.

    Args:
        numbers: the heads' places in `Calibration.present`, in ascending order.
    """
    places = calibration.present()
    positions: dict[str, list[int]] = {}
    for name, position in (places[number] for number in numbers):
        positions.setdefault(name, []).append(position)
    rises = ablation.rises(batch, positions)
    return torch.cat([rises.rows[name] for name in positions])
