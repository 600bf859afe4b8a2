"""Models and batches that were made in torch's inference mode: gradients can't be taken of them, of copies they can."""

import copy
from collections import UserDict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mha.values.errors import CalibrationError

T = TypeVar("T")


def usable(model: nn.Module) -> nn.Module:
    """The model, or a copy where a parameter or buffer of it was made in inference mode.

    Raises:
        CalibrationError: it has no data: parameters on the meta device that nothing loads when it is called.
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
        return batch if not _is_made_there(batch) else _copied(batch)


def _is_made_there(part: Any) -> bool:
    if isinstance(part, Tensor):
        return part.is_inference()
    if isinstance(part, dict | UserDict):
        return any(map(_is_made_there, part.values()))
    return isinstance(part, tuple | list) and any(map(_is_made_there, part))


def _copied(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.clone() if part.is_inference() else part
    if not _is_made_there(part):
        return part
    if isinstance(part, dict | UserDict):
        changed = copy.copy(part)
        for key, value in part.items():
            changed[key] = _copied(value)
        return changed
    parts = [_copied(value) for value in part]
    return type(part)(*parts) if hasattr(part, "_make") else type(part)(parts)
