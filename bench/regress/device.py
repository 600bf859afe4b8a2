"""Where the gate's benchmarks run: the same device for both sides."""

import os

import torch

VARIABLE = "MHA_GATE_DEVICE"
DEVICE = os.environ.get(VARIABLE, "cpu")


def wait() -> None:
    """Wait until the device has finished what was asked of it."""
    if DEVICE != "cpu":
        torch.accelerator.synchronize()
