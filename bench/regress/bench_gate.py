"""The gate's benchmarks: one call of each subject, without gradients, after a few that warm it up.

Run by bench/regress/workers.py over both checkouts. Any other file with pytest-benchmark's fixture does as well.
"""

from functools import cache
from typing import Any

import pytest
import torch

from bench.regress.subjects import SUBJECTS, Subject

WARM_UP = 3


@cache
def made(name: str) -> Subject:
    """The subject: once in a process, which has many turns with it."""
    return SUBJECTS[name]()


@pytest.mark.parametrize("subject", list(SUBJECTS))
def test_forward(subject: str, benchmark: Any) -> None:
    call = made(subject).call
    with torch.inference_mode():
        for _ in range(WARM_UP):
            call()
        benchmark(call)
