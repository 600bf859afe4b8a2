"""Statistics of what the output projections read (the heads' context), merged batch by batch as it streams by."""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from mha.families import AttentionLayer
from mha.importance.running.batch import CalibrationBatch
from mha.importance.running.calibration import Calibration, Sums, added


@dataclass
class Moments:
    """Count, mean and scatter of the rows x (c,) seen so far, merged batch by batch (Chan, Golub and LeVeque 1983).

    Attributes:
        count: how many rows there were.
        mean: (c,), their mean.
        scatter: Σ (x - mean)(x - mean)ᵀ, (c, c), or only its diagonal, (c,).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    def add(self, rows: Tensor) -> None:
        """Merge more rows, (n, c) in float64, into these moments."""
        total = self.count + len(rows)
        if not len(rows):
            return
        mean = rows.mean(dim=0)
        centred, shift = rows - mean, mean - self.mean
        square = self.scatter.dim() == 2
        own = centred.T @ centred if square else centred.square().sum(dim=0)
        between = torch.outer(shift, shift) if square else shift.square()
        self.scatter += own + between * (self.count * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.count = total

    def __add__(self, other: "Moments") -> "Moments":
        """New moments, of the rows of both."""
        total, shift = max(self.count + other.count, 1), other.mean - self.mean
        between = torch.outer(shift, shift) if self.scatter.dim() == 2 else shift.square()
        scatter = self.scatter + other.scatter + between * (self.count * other.count / total)
        return Moments(self.count + other.count, self.mean + shift * (other.count / total), scatter)


def moments(calibration: Calibration, *, full: bool) -> dict[str, Moments]:
    """Layer name -> the moments of its context over all tokens of all calibration examples, in float64.

    Padding counts as tokens. Layers that do not run are left out.

    Args:
        full: True for the whole scatter matrix, False for its diagonal alone.
    """
    calibration.expect(1)
    return calibration.summed(_ContextSums(full)).moments


@dataclass
class _ContextSums(Sums):
    """The moments of every layer's context.

    Attributes:
        full: as in `moments`.
        moments: layer name -> its moments.
    """

    full: bool
    moments: dict[str, Moments] = field(default_factory=dict)

    def add(self, _calibration: Calibration, batch: CalibrationBatch) -> None:
        with torch.no_grad():
            batch.loss(change=self._see)

    def __add__(self, other: Self) -> Self:
        return replace(self, moments=added(self.moments, other.moments))

    def _see(self, layer: AttentionLayer, context: Tensor) -> Tensor:
        """Merge the context of a layer into its moments, and return it unchanged."""
        rows = context.detach().reshape(-1, context.shape[-1]).double()
        if layer.name not in self.moments:
            width = rows.shape[1]
            scatter = rows.new_zeros(width, width) if self.full else rows.new_zeros(width)
            self.moments[layer.name] = Moments(0, rows.new_zeros(width), scatter)
        self.moments[layer.name].add(rows)
        return context
