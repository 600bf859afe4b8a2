"""Models and batches that were made in torch's inference mode: gradients need copies of them."""

import copy
from collections import UserDict
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from mha.runtime.nests import mapped
from mha.values.errors import CalibrationError

T = TypeVar("T")


def usable(model: nn.Module) -> nn.Module:
    """The model itself, or a copy of it where a parameter or buffer was made in inference mode and so has no gradient.

    Raises:
        CalibrationError: a parameter is on the meta device, and no hook of accelerate loads its data for a call.
    """
    for name, module in model.named_modules():
        for parameter, tensor in module._parameters.items():
            if tensor is not None and tensor.is_meta and not hasattr(module, "_hf_hook"):
                raise CalibrationError(
                    f"{name}{'.' if name else ''}{parameter} is on the meta device, without data: load weights first"
                )
    if not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        return model
    with torch.inference_mode(False):
        return copy.deepcopy(model)


def usable_batch(batch: T) -> T:
    """The batch, with copies of the tensors in it (in tuples, lists and mappings) that were made in inference mode."""
    with torch.inference_mode(False):
        return cast(T, mapped(batch, _made_outside, containers=(tuple, list, dict, UserDict)))


def _made_outside(leaf: Any) -> Any:
    """A copy of a tensor that was made in inference mode; anything else as it is."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf
