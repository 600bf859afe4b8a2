"""Copies of a module that share its tensors, for a change of structure that costs no memory."""

import copy
from typing import Any

from torch import nn


def sharing_copy(module: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are those of the module: changing which ones it has costs no memory."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, memo)
