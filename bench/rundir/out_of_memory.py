"""When memory runs out: how that is told from other errors, and how memory is given back."""

import gc
import re

import torch

PHRASES = re.compile(r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the machine or of an accelerator.

    The CPU's allocator, and some accelerators', raise a plain RuntimeError that only its words tell apart.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(PHRASES.search(str(error)))


def give_memory_back() -> None:
    """Run the garbage collector, and empty the cache of the accelerator's allocator, if there is an accelerator."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
