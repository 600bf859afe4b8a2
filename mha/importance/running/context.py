"""Statistics of what the output projections read (the heads' context), merged batch by batch as it streams by."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mha.families import AttentionLayer
from mha.importance.running.calibration import Calibration


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


def moments(calibration: Calibration, *, full: bool) -> dict[str, Moments]:
    """Layer name -> the moments of its context over all tokens of all calibration examples, in float64.

    Padding counts as tokens. Layers that do not run are left out.

    Args:
        full: True for the whole scatter matrix, False for its diagonal alone.
    """
    layer_moments: dict[str, Moments] = {}

    def add(layer: AttentionLayer, context: Tensor) -> Tensor:
        """Merge the context of a layer into its moments, and return it unchanged."""
        rows = context.detach().reshape(-1, context.shape[-1]).double()
        if layer.name not in layer_moments:
            width = rows.shape[1]
            scatter = rows.new_zeros(width, width) if full else rows.new_zeros(width)
            layer_moments[layer.name] = Moments(0, rows.new_zeros(width), scatter)
        layer_moments[layer.name].add(rows)
        return context

    show_context(calibration, add)
    return layer_moments


def show_context(calibration: Calibration, change: Callable[[AttentionLayer, Tensor], Tensor]) -> None:
    """Run the model over the calibration set, without gradients, and call `change` whenever a layer's context is there.

    Args:
        change: (layer, context) -> what the layer's output projection reads instead.
    """
    calibration.expect(1)
    with torch.no_grad():
        for batch in calibration.each_batch():
            batch.loss(change=change)
