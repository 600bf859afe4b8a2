"""What is left of an output projection once no head is left to project."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def left_of(output: str) -> str:
    """The name of what is left of the output projection of that name."""
    return f"{output}_without_heads"


class OutputBias(nn.Module):
    """An output projection over no features: its bias at every position, or zeros where it had none.

    Args:
        out_features: o, the width of what it returns.
        bias: (o,).
    """

    bias: nn.Parameter | None

    def __init__(self, out_features: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features = out_features
        self.register_parameter("bias", bias)

    def forward(self, context: Tensor) -> Tensor:
        """(…, anything) -> (…, o); of the context only shape, dtype and device matter."""
        shape = context.shape[:-1]
        if self.bias is None:
            return tied_to(context.new_zeros(*shape, self.out_features), {"context": context})
        bias: Tensor = self.bias
        device = context.device.type
        if torch.is_autocast_enabled(device):  # as a linear would
            bias = bias.to(torch.get_autocast_dtype(device))
        return tied_to(bias.expand(*shape, self.out_features).clone(), {"context": context})

    def extra_repr(self) -> str:
        return f"out_features={self.out_features}, bias={self.bias is not None}"


def tied_to(output: Tensor, given: Mapping[str, Any]) -> Tensor:
    """The output, which depends on none of the inputs, as one whose gradient reaches them all, as zeros.

    What computed the inputs then gets gradients as beside any other layer, and not none: DistributedDataParallel waits
    for those.
    """
    if not torch.is_grad_enabled():
        return output
    for value in given.values():
        if isinstance(value, Tensor) and value.requires_grad:
            output = output + value.flatten()[:0].sum().to(output)
    return output
