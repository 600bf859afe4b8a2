"""Turns effects into verdicts: which benchmarks are measured again, and what is said of them and the run in the end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.regress.statistics import Effect, adjusted

PASS, REGRESSED, IMPROVED, INCONCLUSIVE, NEW, SKIPPED, ERROR = (
    "PASS",
    "REGRESSED",
    "IMPROVED",
    "INCONCLUSIVE",
    "NEW",
    "SKIPPED",
    "ERROR",
)
EXIT_CODES = {PASS: 0, REGRESSED: 1, INCONCLUSIVE: 3, ERROR: 4, IMPROVED: 10, NEW: 11}


@dataclass(frozen=True)
class Rules:
    """The limits by which a run is judged; relative changes, unless said otherwise.

    Attributes:
        threshold: the lower bound of a slowdown must be above it, and above the noise floor, to be a regression.
        least: the estimate of a slowdown must be at least this to be a regression.
        blind: a benchmark passes only if it can't have become slower by this much.
        fdr: the largest share of a run's regressions that may be expected to be false.
    """

    threshold: float = 0.015
    least: float = 0.03
    blind: float = 0.10
    fdr: float = 0.05


@dataclass(frozen=True)
class Looks:
    """The effects on a benchmark.

    Attributes:
        screen: in the first look.
        again: in the second look, if there was one.
        together: in the rounds of both looks, if there was a second.
    """

    screen: Effect
    again: Effect | None = None
    together: Effect | None = None


def undecided(effects: Mapping[str, Effect], rules: Rules) -> list[str]:
    """The benchmarks to measure again, by their effects in the first look.

    These are those that look changed by at least `rules.least`, and those of which a slowdown by `rules.blind` can't be
    excluded.
    """
    return [name for name, seen in effects.items() if abs(seen.estimate) >= rules.least or seen.high >= rules.blind]


def judge(looks: Mapping[str, Looks], rules: Rules) -> dict[str, tuple[str, str | None, float | None]]:
    """Benchmark -> its verdict, the reason (None: it needs none), and the p that it was judged by, adjusted for all.

    A change must be large enough in the first look, and must fulfil all rules in the second, on rounds of its own. So
    only what was measured again can have changed, and the other benchmarks count in the adjustment as p = 1.
    """
    slower = _adjusted({name: seen.again.p if seen.again else 1.0 for name, seen in looks.items()})
    faster = _adjusted({name: seen.again.p_faster if seen.again else 1.0 for name, seen in looks.items()})
    return {name: _verdict(seen, slower[name], faster[name], rules) for name, seen in looks.items()}


def _adjusted(p: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(p, adjusted(list(p.values())), strict=True))


def _verdict(seen: Looks, slower: float, faster: float, rules: Rules) -> tuple[str, str | None, float]:
    """A benchmark's verdict, the reason if it needs one, and its p.

    Args:
        slower, faster: the p of a slowdown and of a speedup, adjusted for all benchmarks.
    """
    if is_regression(seen.again, slower, rules) and seen.screen.estimate >= rules.least:
        return REGRESSED, None, slower
    if is_regression(mirrored(seen.again), faster, rules) and seen.screen.estimate <= -rules.least:
        return IMPROVED, None, faster
    best = seen.together or seen.screen
    if best.high >= rules.blind:
        return INCONCLUSIVE, f"a slowdown of {rules.blind:.0%} can't be excluded: at most {best.high:+.1%}", slower
    return PASS, None, slower


def is_regression(seen: Effect | None, p: float, rules: Rules) -> bool:
    """Whether the effect seen in one look, with its adjusted p, is a slowdown that fulfils all rules; False if None.

    Its lower bound must be above `threshold` and the noise floor, its estimate at least `least`, and `p` at most `fdr`.
    """
    if seen is None:
        return False
    return seen.low > max(rules.threshold, seen.floor) and seen.estimate >= rules.least and p <= rules.fdr


def mirrored(seen: Effect | None) -> Effect | None:
    """The effect with the sides exchanged: base / head - 1; None if there is none."""
    if seen is None:
        return None
    estimate, low, high = (1 / (1 + value) - 1 for value in (seen.estimate, seen.high, seen.low))
    return seen._replace(estimate=estimate, low=low, high=high, p=seen.p_faster, p_faster=seen.p)


def has_moved(control: Effect, rules: Rules) -> bool:
    """Whether the control, which no change can touch, became slower or faster by more than the threshold.

    That is so if the lower bound of the slowdown, or of the speedup, is above it.
    """
    other = mirrored(control)
    assert other is not None
    return max(control.low, other.low) > rules.threshold


def overall(rows: Iterable[Mapping[str, Any]], doubts: Sequence[str]) -> str:
    """The run's verdict: ERROR if any row is one, else INCONCLUSIVE if there are doubts, else that of its decisive row.

    The first of REGRESSED, INCONCLUSIVE, IMPROVED, PASS and NEW that any row has decides. Skipped rows do not count: if
    there are no others, nothing was judged, and the run is INCONCLUSIVE.
    """
    verdicts = {row["verdict"] for row in rows}
    if ERROR in verdicts:
        return ERROR
    if doubts:
        return INCONCLUSIVE
    return next((each for each in (REGRESSED, INCONCLUSIVE, IMPROVED, PASS, NEW) if each in verdicts), INCONCLUSIVE)
