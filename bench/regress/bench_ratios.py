"""The time of pruned attention over dense, in one process: what may be compared with a stored run.

Run by bench/regress/baseline.py, process by process. What counts is the speedup over "dense" that `sampled` leaves in
`extra_info`; any benchmark that leaves one takes part.
"""

import os

import pytest
import torch

from bench.measure.sampling import sampled
from bench.regress.device import DEVICE
from bench.regress.subjects import SUBJECTS
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
    subjects = {"pruned": SUBJECTS[pruned](), "dense": SUBJECTS[PAIRS[pruned]]()}
    arms = {name: rotated([subject.call]) for name, subject in subjects.items()}
    with torch.inference_mode():
        sampled(request, arms, target="pruned", device=DEVICE, limits=LIMITS, cache="warm", seed=os.getpid())
