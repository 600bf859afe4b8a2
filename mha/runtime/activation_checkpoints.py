"""Models that checkpoint their activations: parts of them run again while gradients are computed."""

from contextlib import AbstractContextManager
from typing import Any

import torch.utils.checkpoint as checkpointing

from mha.runtime.undoing import Setting


class _NotReentrant:
    """Stands in for torch's `CheckpointFunction`, which checkpoints with `use_reentrant=True` call."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        """What the function returns for these arguments, run in a checkpoint with `use_reentrant=False`."""
        return checkpointing.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)


_FUNCTION = Setting(
    lambda: checkpointing.CheckpointFunction, lambda function: setattr(checkpointing, "CheckpointFunction", function)
)


def no_reentrant_checkpoints() -> AbstractContextManager[None]:
    """Within the context, checkpoints with `use_reentrant=True` are made as if it were False, and save as much memory.

    Reentrant checkpoints give gradients only to `.backward()`, which adds them to every parameter, and give none at all
    where no input needs any. The change holds for the whole process, until the last such context of any thread ends.
    """
    return _FUNCTION.at(_NotReentrant)
