"""Which modules cost the same: layers of a model are mostly copies of one another, and one is enough to measure."""

from typing import Any

import torch
from torch import nn

PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)
NUMBERING = ("layer_idx", "layer_id")  # attributes in which layers of the same cost differ
Key = tuple[Any, ...]


def kind_of(module: nn.Module) -> Key:
    """Equal for modules of equal cost: classes, plain attributes, and the shapes of all parameters."""
    return tuple((name, type(part), _plain_attributes(part), _shapes(part)) for name, part in module.named_modules())


def _plain_attributes(module: nn.Module) -> Key:
    values = vars(module)
    plain = (name for name in sorted(values) if isinstance(values[name], PLAIN) and name not in NUMBERING)
    return tuple((name, values[name]) for name in plain)


def _shapes(module: nn.Module) -> Key:
    tensors = {**module._parameters, **module._buffers}
    return tuple((name, t.shape, t.dtype) for name, t in tensors.items() if t is not None)
