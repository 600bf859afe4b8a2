"""Calls without arguments that run a model on given inputs; and copies of inputs with every tensor changed."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def forward(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Callable[[], Any]:
    """A call without arguments that runs the model, or what is called like one, on these inputs, without gradients."""
    named = dict(kwargs or {})

    def call() -> Any:
        with torch.inference_mode():
            return model(*args, **named)

    return call


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A copy of a nest of tuples, lists and mappings in which `change(tensor)` stands in place of every tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(each, change) for key, each in value.items()}
    if isinstance(value, tuple | list):
        parts = [map_tensors(each, change) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)  # named tuples take each part
    return value
