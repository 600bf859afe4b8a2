"""The gate's exact figures: a benchmark for each workload, and one that trains a small model from a fixed seed.

    python -m pytest bench/regress/bench_figures.py --confcutdir=bench/regress -p no:cacheprovider --benchmark-json=FILE

Run once with each side's mha, of which only public names are used. No time in the file means anything: what is timed is
the counting itself. What counts is `extra_info`, which `bench.regress.exact` reads, and the gate keeps in
`figures-base.json` and `figures-head.json`.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.regress import seeded
from bench.regress.counting import counted
from bench.regress.workloads import WORKLOADS


@pytest.mark.parametrize("workload", WORKLOADS)
def test_figures(benchmark: BenchmarkFixture, workload: str) -> None:
    """Count parameters, FLOPs and peak bytes of one call of the workload with this name, as `extra_info["exact"]`."""
    benchmark.name = workload
    benchmark.extra_info["exact"] = benchmark.pedantic(lambda: counted(*WORKLOADS[workload]()), rounds=1)


def test_seeded(benchmark: BenchmarkFixture) -> None:
    """Train a small model anew, and note which held-out examples it answers right with all heads and with half."""
    benchmark.name = "seeded"
    benchmark.extra_info |= benchmark.pedantic(seeded.outcome, rounds=1)
