"""Which modules cost the same: a model's layers are mostly copies of one another, and one is enough to measure."""

from typing import Any

import torch
from torch import nn

PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)
NUMBERING = ("layer_idx", "layer_id")  # attributes in which layers of the same cost differ
Key = tuple[Any, ...]


def cost_key(module: nn.Module) -> Key:
    """A key that is equal for modules of equal cost.

    It holds name, class and plain attributes of the module and of each submodule, and name, shape and dtype of all
    parameters and buffers.
    """
    return tuple((name, type(each), _plain_attributes(each), _shapes(each)) for name, each in module.named_modules())


def _plain_attributes(module: nn.Module) -> Key:
    """(name, value) of each attribute of the module itself that is a number, a name or the like (`PLAIN`).

    Those that number the layer (`NUMBERING`) are left out.
    """
    values = vars(module)
    plain = (name for name in sorted(values) if isinstance(values[name], PLAIN) and name not in NUMBERING)
    return tuple((name, values[name]) for name in plain)


def _shapes(module: nn.Module) -> Key:
    """(name, shape, dtype) of each parameter and buffer that the module itself holds, not a submodule."""
    tensors = {**module._parameters, **module._buffers}
    return tuple((name, t.shape, t.dtype) for name, t in tensors.items() if t is not None)
