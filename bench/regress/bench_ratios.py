"""Times pruned attention beside dense attention in one process: their ratio can be compared with a stored run's.

Run by bench/regress/baseline.py, process by process; ratios go into the gate's `rounds/`. What counts is the speedup
over "dense" that `sampled` leaves in `extra_info`; any benchmark that leaves one takes part.
"""

import os

import pytest
import torch

from bench.measure.sampling import sampled
from bench.regress.device import DEVICE
from bench.regress.workloads import WORKLOADS
from mha.timing import rotated

PAIRS = {
    "half-1x16": "dense-1x16",
    "half-4x64": "dense-4x64",
    "half-1x256": "dense-1x256",
    "masked-4x64": "dense-4x64",
}
LIMITS = {"seconds": 1.0, "rounds": (10, 1000)}


@pytest.mark.parametrize("pruned", list(PAIRS))
def test_ratio(pruned: str, request: pytest.FixtureRequest) -> None:
    """Time the workload `pruned` and its dense one (PAIRS) in turns; `sampled` leaves the speedup in `extra_info`."""
    workloads = {"pruned": WORKLOADS[pruned](), "dense": WORKLOADS[PAIRS[pruned]]()}
    arms = {name: rotated([workload.call]) for name, workload in workloads.items()}
    with torch.inference_mode():
        sampled(request, arms, target="pruned", device=DEVICE, limits=LIMITS, cache="warm", seed=os.getpid())
