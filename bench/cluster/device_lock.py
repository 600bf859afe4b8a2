"""Who may compute on a device of this machine: one timed case alone, or any number of untimed ones together.

The locks are files, which the operating system takes back from a process that ends, however it ends. They hold between
all processes of one user that see the same temporary folder: workers in containers of their own do not.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FOLDER = "mha-bench-devices"
CPU = "cpu"


@contextmanager
def alone_on(device: str) -> Iterator[None]:
    """Within the context no other case computes on the device: none that is timed, and on a CPU no other at all.

    Who times an accelerator is, for the CPU, one of several.

    Args:
        device: as torch names it.
    """
    if device == CPU:
        with _held(CPU, alone=True):
            yield
    else:
        with _held(CPU, alone=False), _held(_name_of(device), alone=True):
            yield


@contextmanager
def among_others() -> Iterator[None]:
    """Within the context no timed case computes on the CPU, but others may that are not timed."""
    with _held(CPU, alone=False):
        yield


@contextmanager
def _held(name: str, *, alone: bool) -> Iterator[None]:
    """Wait for the lock of this name, and hold it. Whoever waits to be alone keeps later ones from passing by."""
    import fcntl  # not on every system

    folder = Path(tempfile.gettempdir(), f"{FOLDER}-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / f"{name}.turn").open("w") as turn, (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


def _name_of(device: str) -> str:
    """A name that is the same in every process: workers number the accelerators that each of them sees from 0."""
    if device.startswith("cuda"):
        return re.sub(r"[^\w.-]", "-", f"cuda-{torch.cuda.get_device_properties(device).uuid}")
    return device.replace(":", "-")
