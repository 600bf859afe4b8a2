"""What is left of an output projection once no head is left to project."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def left_of(output: str) -> str:
    """The name of the `OutputBias` that takes the place of the output projection `output`: that + "_without_heads"."""
    return f"{output}_without_heads"


class OutputBias(nn.Module):
    """What an output projection returns when it reads no features: its bias for every token, zeros where it had none.

    Args:
        out_features: o, the width of what it returns.
        bias: (o,), or None.
    """

    bias: nn.Parameter | None

    def __init__(self, out_features: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features = out_features
        self.register_parameter("bias", bias)

    def forward(self, context: Tensor) -> Tensor:
        """The bias for every token: (…, any width) -> (…, o). Of the context only shape, dtype and device matter."""
        shape = context.shape[:-1] + (self.out_features,)  # noqa: RUF005  # TorchScript can't unpack it
        bias = self.bias
        output = context.new_zeros(shape) if bias is None else bias.expand(shape).clone()
        if torch.jit.is_scripting():
            return output
        device = context.device.type
        if bias is not None and torch.is_autocast_enabled(device):  # as a linear would
            output = output.to(torch.get_autocast_dtype(device))
        return tied_to(output, {"context": context})

    def extra_repr(self) -> str:
        return f"out_features={self.out_features}, bias={self.bias is not None}"


def tied_to(output: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """The output, whose value depends on none of the inputs, joined to their graph: each gets a gradient of zeros.

    Then parameters from which the inputs were computed get gradients of zeros, and not None, as from any other layer:
    DistributedDataParallel waits for those.

    Args:
        inputs: by name; those that are no tensors, or require no gradient, are passed over.
    """
    if not torch.is_grad_enabled():
        return output
    for value in inputs.values():
        if isinstance(value, Tensor) and value.requires_grad:
            output = output + value.flatten()[:0].sum().to(output)
    return output
