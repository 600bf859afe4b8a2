"""Verdicts, rule by rule, and what is measured again."""

import pytest

from bench.regress.statistics import Effect
from bench.regress.verdict import EXIT_CODES, Looks, Rules, has_moved, judge, overall, undecided

RULES = Rules()
QUIET = Effect(0.001, -0.004, 0.006, 0.002, 0.4, 0.6, 9)
SLOW = Effect(0.060, 0.045, 0.075, 0.002, 0.001, 1.0, 18)
FAST = Effect(-0.060, -0.075, -0.045, 0.002, 1.0, 0.001, 18)
WIDE = Effect(0.020, -0.090, 0.150, 0.030, 0.3, 0.7, 9)


def verdict(screen, again=None, together=None, others=0):
    looks = {"it": Looks(screen, again, together)} | {f"other-{index}": Looks(QUIET) for index in range(others)}
    return judge(looks, RULES)["it"]


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ((QUIET,), "PASS"),
        ((SLOW, SLOW, SLOW), "REGRESSED"),
        ((FAST, FAST, FAST), "IMPROVED"),
        ((SLOW, QUIET, QUIET), "PASS"),  # both looks have to agree
        ((QUIET._replace(high=0.2), SLOW, SLOW), "PASS"),
        ((FAST, SLOW, QUIET), "PASS"),
        ((SLOW, SLOW._replace(low=0.014), SLOW), "PASS"),  # not above the threshold
        ((SLOW, SLOW._replace(floor=0.046), SLOW), "PASS"),  # nor above the noise floor
        ((SLOW, SLOW._replace(estimate=0.029), SLOW), "PASS"),  # too small to matter
        ((SLOW, SLOW._replace(p=0.06), SLOW), "PASS"),
        ((WIDE,), "INCONCLUSIVE"),
        ((WIDE, WIDE, WIDE), "INCONCLUSIVE"),
        ((WIDE, WIDE, WIDE._replace(high=0.09)), "PASS"),
    ],
)
def test_verdicts(looks, expected):
    assert verdict(*looks)[0] == expected


def test_the_more_benchmarks_the_smaller_p_has_to_be():
    again = SLOW._replace(p=0.004)
    assert verdict(SLOW, again, SLOW, others=11)[0] == "REGRESSED"  # 0.004 * 12 = 0.048
    name, _, p = verdict(SLOW, again, SLOW, others=12)
    assert (name, p) == ("PASS", pytest.approx(0.052))


def test_what_is_measured_again():
    effects = {"quiet": QUIET, "slow": SLOW, "fast": FAST, "wide": WIDE, "nearly": QUIET._replace(estimate=0.0299)}
    assert undecided(effects, RULES) == ["slow", "fast", "wide"]


def test_inconclusive_says_what_cannot_be_excluded():
    assert verdict(WIDE)[1] == "a slowdown of 10% can't be excluded: at most +15.0%"


@pytest.mark.parametrize(
    ("control", "moved"),
    [(QUIET, False), (SLOW, True), (FAST, True), (WIDE, False), (SLOW._replace(low=0.015), False)],
)
def test_a_control_that_moved(control, moved):
    assert has_moved(control, RULES) is moved


@pytest.mark.parametrize(
    ("verdicts", "doubts", "expected"),
    [
        (["PASS", "REGRESSED", "NEW"], [], "REGRESSED"),
        (["PASS", "REGRESSED"], ["the control moved"], "INCONCLUSIVE"),
        (["PASS", "ERROR", "REGRESSED"], ["the control moved"], "ERROR"),
        (["PASS", "INCONCLUSIVE", "IMPROVED"], [], "INCONCLUSIVE"),
        (["IMPROVED", "REGRESSED"], [], "REGRESSED"),
        (["PASS", "IMPROVED"], [], "IMPROVED"),
        (["PASS", "NEW"], [], "PASS"),
        (["NEW"], [], "NEW"),
        (["PASS", "SKIPPED"], [], "PASS"),
        (["NEW", "SKIPPED"], [], "NEW"),
        (["SKIPPED"], [], "INCONCLUSIVE"),
    ],
)
def test_the_verdict_of_a_run(verdicts, doubts, expected):
    assert overall([{"verdict": each} for each in verdicts], doubts) == expected


def test_every_verdict_has_an_exit_code_of_its_own():
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES) == 6
    assert 2 not in EXIT_CODES.values()  # usage errors
