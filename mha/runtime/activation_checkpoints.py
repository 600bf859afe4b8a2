"""Models that checkpoint their activations: parts of them run again while gradients are computed."""

from contextlib import AbstractContextManager
from typing import Any

import torch.utils.checkpoint as checkpointing

from mha.runtime.undoing import Setting


class _NotReentrant:
    """In place of `CheckpointFunction`."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        return checkpointing.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)


_FUNCTION = Setting(
    lambda: checkpointing.CheckpointFunction, lambda function: setattr(checkpointing, "CheckpointFunction", function)
)


def no_reentrant_checkpoints() -> AbstractContextManager[None]:
    """Within the context, checkpoints with `use_reentrant=True` are made the other way, and save as much memory.

    Reentrant ones give gradients by `.backward()` alone, into every parameter, and none at all where what goes in needs
    none. It holds for the process, until the last such context of any thread ends.
    """
    return _FUNCTION.at(_NotReentrant)
