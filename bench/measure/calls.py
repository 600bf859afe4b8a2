"""Models and what is called like one, as calls without arguments."""

from collections.abc import Callable, Mapping
from typing import Any

import torch


def forward(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Callable[[], Any]:
    """A call that runs the model, or whatever is called like one, on these inputs, without gradients."""
    named = dict(kwargs or {})

    def call() -> Any:
        with torch.inference_mode():
            return model(*args, **named)

    return call
