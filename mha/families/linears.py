"""Linear modules, whichever way round they store their weight."""

import torch
from torch import Tensor, nn

from mha.output_bias import OutputBias


def is_conv1d(module: nn.Module) -> bool:
    """transformers' linear with the weight the other way round, (in, out)."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def weight_of(linear: nn.Module) -> Tensor:
    """The weight as (out, in), in float64 and without gradient; of an `OutputBias` (out, 0)."""
    if isinstance(linear, OutputBias):
        device = None if linear.bias is None else linear.bias.device
        return torch.zeros(linear.out_features, 0, dtype=torch.float64, device=device)
    weight = linear.get_parameter("weight").detach().double()
    return weight.T if is_conv1d(linear) else weight
