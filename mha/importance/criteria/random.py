"""Chance: what every other criterion must beat."""

import torch
from torch import Tensor

from mha.importance.registry import criterion
from mha.importance.running.calibration import Calibration


@criterion("random", needs="nothing")
def random(calibration: Calibration) -> dict[str, Tensor]:
    """Uniform in [0, 1), by the seed."""
    return {
        name: torch.rand(layer.num_heads, generator=calibration.generator) for name, layer in calibration.layers.items()
    }
