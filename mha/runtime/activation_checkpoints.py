"""Models that checkpoint their activations: parts of them run again while gradients are computed."""

from contextlib import AbstractContextManager
from typing import Any

import torch.utils.checkpoint as checkpointing

from mha.runtime.undoing import Setting


class _NotReentrant:
    """Stands in for torch's `CheckpointFunction`, which checkpoints with `use_reentrant=True` call."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        """What the function returns for these arguments, checkpointed the other way."""
        return checkpointing.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)


_FUNCTION = Setting(
    lambda: checkpointing.CheckpointFunction, lambda function: setattr(checkpointing, "CheckpointFunction", function)
)


def no_reentrant_checkpoints() -> AbstractContextManager[None]:
    """Within the context, checkpoints with `use_reentrant=True` are made the other way, and save as much memory.

    Reentrant ones give gradients to `.backward()` alone, which puts them into every parameter, and give none at all
    where no input needs any. The context holds for the process, until the last one of any thread ends.
    """
    return _FUNCTION.at(_NotReentrant)
