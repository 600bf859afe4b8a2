"""Chance: what every other criterion must beat."""

import torch
from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration


@register_criterion("random", needs="nothing")
def random(calibration: Calibration) -> dict[str, Tensor]:
    """A uniform random number in [0, 1) for every head, by the seed: what every other criterion must beat."""
    return {
        name: torch.rand(layer.num_heads, generator=calibration.generator) for name, layer in calibration.layers.items()
    }
