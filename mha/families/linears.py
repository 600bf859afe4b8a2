"""Linear modules, whichever way round they store their weight."""

from torch import Tensor, nn


def is_conv1d(module: nn.Module) -> bool:
    """transformers' linear with the weight the other way round, (in, out)."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def weight_of(linear: nn.Module) -> Tensor:
    """The weight as (out, in), in float64 and without gradient."""
    weight = linear.get_parameter("weight").detach().double()
    return weight.T if is_conv1d(linear) else weight
