"""Where the gate's benchmarks run: the same device for both sides."""

import os

import torch

VARIABLE = "MHA_GATE_DEVICE"
DEVICE = os.environ.get(VARIABLE, "cpu")


def wait() -> None:
    """Wait until the device `DEVICE` has finished all work queued on it; on a CPU there is none."""
    if DEVICE != "cpu":
        torch.accelerator.synchronize()
