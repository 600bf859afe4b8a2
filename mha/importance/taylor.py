"""How much the loss would move to first order, whichever way (Michel, Levy and Neubig 2019)."""

import torch
from torch import Tensor

from mha.importance.calibration import Calibration
from mha.importance.registry import criterion


@criterion("taylor", needs="gradients")
def taylor(calibration: Calibration, *, normalize: bool = False) -> dict[str, Tensor]:
    """I_h = E_x |∂L(x)/∂ξ_h| (section 4.1 of the paper), the absolute value taken per example.

    Args:
        normalize: divide each layer's scores by their ℓ2 norm, as the paper does. It makes every layer equally
            important as a whole, so a layer in which nothing matters can't rank low; off by default.
    """
    total = {name: torch.zeros(layer.num_heads, dtype=torch.float64) for name, layer in calibration.layers.items()}
    examples = 0
    for one in calibration.passes():
        for name, gradients in one.per_example_gradients().items():
            total[name] += gradients.abs().sum(dim=0, dtype=torch.float64).cpu()
        examples += one.examples
    scores = {name: row / examples for name, row in total.items()}
    return {name: _unit(row) for name, row in scores.items()} if normalize else scores


def _unit(row: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(row)
    return row / norm if norm > 0 else row
