"""Linear modules, whichever way round they store their weight."""

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from mha.layer.output_bias import OutputBias
from mha.values.errors import UnsupportedModule


def is_conv1d(module: nn.Module) -> bool:
    """Whether the module is transformers' `Conv1D`, a linear that stores its weight the other way round, (in, out)."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def weight_of(linear: nn.Module) -> Tensor:
    """The weight that a linear multiplies by, as (out, in), in float64 and without gradient.

    It may be computed from other parameters, as in weight normalisation. That of an `OutputBias` is (out, 0).

    Raises:
        UnsupportedModule: the linear has no weight that is a dense tensor, as one that is quantised.
    """
    if isinstance(linear, OutputBias):
        device = None if linear.bias is None else linear.bias.device
        return torch.zeros(linear.out_features, 0, dtype=torch.float64, device=device)
    normed = next((hook for hook in linear._forward_pre_hooks.values() if isinstance(hook, WeightNorm)), None)
    effective = linear.weight if normed is None else normed.compute_weight(linear)  # the attribute is of the last pass
    if not isinstance(effective, Tensor):
        raise UnsupportedModule(
            f"{type(linear).__module__}.{type(linear).__name__} has no dense weight (quantised?); score, prune and "
            "repair the model as it was before that, and quantise what is left"
        )
    weight = effective.detach().double()
    return weight.T if is_conv1d(linear) else weight
