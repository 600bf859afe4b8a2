"""The gate's benchmarks: one call of each workload, without gradients, after a few that warm it up.

Run by bench/regress/workers.py over both checkouts; samples go into the gate's `rounds/`, a file for each round. Any
other file whose tests take pytest-benchmark's fixture can be measured instead.
"""

from functools import cache
from typing import Any

import pytest
import torch

from bench.regress.workloads import WORKLOADS, Workload

WARM_UP = 3


@cache
def made(name: str) -> Workload:
    """The workload with this name, made only once in a process, which calls it in many turns."""
    return WORKLOADS[name]()


@pytest.mark.parametrize("workload", list(WORKLOADS))
def test_forward(workload: str, benchmark: Any) -> None:
    """Time one call of the workload with this name, without gradients, after `WARM_UP` calls."""
    call = made(workload).call
    with torch.inference_mode():
        for _ in range(WARM_UP):
            call()
        benchmark(call)
