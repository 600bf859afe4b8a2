"""The size of a head's columns of the output projection."""

import torch
from torch import Tensor

from mha.families import AttentionLayer
from mha.importance.calibration import Calibration
from mha.importance.registry import criterion
from mha.layout import owners


@criterion("magnitude", needs="nothing")
def magnitude(calibration: Calibration) -> dict[str, Tensor]:
    """‖W_o[:,h]‖, the Frobenius norm; needs no data."""
    return {name: _norms(layer) for name, layer in calibration.layers.items()}


def _norms(layer: AttentionLayer) -> Tensor:
    weight = layer.output.get_parameter("weight").detach().double()
    squares = weight.square().sum(dim=0)
    owner = owners(layer.context_axis, layer.sizes).to(weight.device)
    return torch.zeros(layer.num_heads, dtype=torch.float64, device=weight.device).index_add(0, owner, squares).sqrt()
