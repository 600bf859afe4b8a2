"""Computes from rounds how a benchmark's time has changed, how well that is known, and how likely chance would do it.

A round has two processes of each arm, which take turns. Their logarithmic times h₀, h₁ (head) and b₀, b₁ (base) make
two contrasts, each the median over the turns:

    d = (h₀ + h₁ − b₀ − b₁) / 2      the effect of the change
    n = (h₀ − h₁ + b₀ − b₁) / 2      nothing: each arm against itself

With no change both have the same distribution, symmetric about 0 since the order of the processes is. So the estimate
is the median of Walsh averages (Hodges and Lehmann 1963), the interval that of Wilcoxon's signed ranks (Lehmann 1975,
Nonparametrics, chapter 4), and p the share of all flips of signs whose rank sum is as large: exact, and moved little by
a round that was disturbed. The estimate made of n instead of d is the noise floor of this very run.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.975  # of each end of an interval
FEWEST = 6  # rounds for an interval at that level


class Contrast(NamedTuple):
    """What one round says of a benchmark, as differences of logarithmic times (d and n in this module's docstring).

    Attributes:
        effect: d, by which the head is slower than the base.
        nothing: n, by which the first process of each arm is slower than its second: noise.
    """

    effect: float
    nothing: float


class Effect(NamedTuple):
    """A relative change of a benchmark's time, head / base − 1, which is positive where the head is slower.

    Attributes:
        estimate: the change.
        low, high: bounds of the change, each at `LEVEL`.
        floor: size of the change that the same rounds show between two runs of the same code.
        p: of the hypothesis that the head is not slower.
        p_faster: of the hypothesis that the head is not faster.
        rounds: how many rounds it is estimated from.
    """

    estimate: float
    low: float
    high: float
    floor: float
    p: float
    p_faster: float
    rounds: int


def contrast(seconds: Mapping[str, Sequence[float]]) -> Contrast:
    """The contrast of one round, from seconds of a call in each turn of "head-0", "head-1", "base-0" and "base-1"."""
    h0, h1, b0, b1 = (np.log(seconds[process]) for process in ("head-0", "head-1", "base-0", "base-1"))
    return Contrast(float(np.median((h0 + h1 - b0 - b1) / 2)), float(np.median((h0 - h1 + b0 - b1) / 2)))


@cache
def effect(contrasts: tuple[Contrast, ...]) -> Effect:
    """The effect that several rounds show together, from the contrast of each.

    Raises:
        ValueError: there are fewer than `FEWEST` rounds, too few for an interval at `LEVEL`.
    """
    d = np.array([each.effect for each in contrasts], dtype=float)
    if len(d) < FEWEST:
        raise ValueError(f"{len(d)} rounds; an interval at {LEVEL:.1%} takes {FEWEST}")
    walsh = walsh_averages(d)
    outside = rank_sums_outside(len(d))
    floor = abs(float(np.median(walsh_averages(np.array([each.nothing for each in contrasts], dtype=float)))))
    estimate, low, high, floor = (
        math.expm1(float(value)) for value in (np.median(walsh), walsh[outside], walsh[-1 - outside], floor)
    )
    return Effect(estimate, low, high, floor, signed_rank_p(d), signed_rank_p(-d), len(d))


def walsh_averages(d: np.ndarray) -> np.ndarray:
    """The means of all pairs of values in `d` (r,), each with itself too, in ascending order: (r (r + 1) / 2,)."""
    first, second = np.triu_indices(len(d))
    return np.sort((d[first] + d[second]) / 2)


@cache
def rank_sums_outside(rounds: int) -> int:
    """How many Walsh averages an interval from so many rounds leaves out at each end.

    It is the largest number at which each end of the interval still has the level `LEVEL`.
    """
    chances = np.cumsum(rank_sum_chances(rounds))
    return int(np.searchsorted(chances, 1 - LEVEL, side="right")) - 1


@cache
def rank_sum_chances(rounds: int) -> np.ndarray:
    """How likely each sum of the positive ones among the ranks 1 to `rounds` is, if signs are tossed like coins.

    The result, (r (r + 1) / 2 + 1,), begins with the chance of the sum 0.
    """
    chances = np.zeros(rounds * (rounds + 1) // 2 + 1)
    chances[0] = 1.0
    for rank in range(1, rounds + 1):
        with_plus = np.zeros_like(chances)
        with_plus[rank:] = chances[:-rank]
        chances = (chances + with_plus) / 2
    return chances


def signed_rank_p(d: np.ndarray) -> float:
    """Wilcoxon's one-sided exact p of `d` (r,), small where most of `d` is positive; zeros are left out.

    It is the share of all sign flips whose sum of positive ranks is at least as large as that of `d`.
    """
    d = d[d != 0]
    reached = stats.rankdata(np.abs(d))[d > 0].sum()
    return float(rank_sum_chances(len(d))[math.ceil(reached) :].sum())


def adjusted(p: Sequence[float]) -> list[float]:
    """The p values, in their order, adjusted by Benjamini and Hochberg (1995) for the share of false findings."""
    return [float(value) for value in stats.false_discovery_control(p)] if len(p) else []
