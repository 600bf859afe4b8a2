"""The gate's exact figures: one benchmark for each subject, run once, and the accuracy of a fixed seed.

    python -m pytest bench/regress/bench_figures.py --confcutdir=bench/regress -p no:cacheprovider --benchmark-json=FILE

Run once with each side's mha, of which only public names are used. No time in the file means anything: what is timed is
the counting itself. What counts is `extra_info`, which `bench.regress.exact` reads.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.regress import seeded
from bench.regress.counting import counted
from bench.regress.subjects import SUBJECTS


@pytest.mark.parametrize("subject", SUBJECTS)
def test_figures(benchmark: BenchmarkFixture, subject: str) -> None:
    """Parameters, FLOPs and peak bytes of one call."""
    benchmark.name = subject
    benchmark.extra_info["exact"] = benchmark.pedantic(lambda: counted(*SUBJECTS[subject]()), rounds=1)


def test_seeded(benchmark: BenchmarkFixture) -> None:
    """What a model trained anew answers right, and what it does with half of its heads."""
    benchmark.name = "seeded"
    benchmark.extra_info |= benchmark.pedantic(seeded.outcome, rounds=1)
