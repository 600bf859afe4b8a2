"""Compares what is counted, not timed: parameters, FLOPs, peak bytes, and accuracy example by example.

Every pytest-benchmark test takes part that fills `extra_info` like this, those of `bench_figures.py` and a user's own:

    benchmark.extra_info["exact"] = {"parameters": 263168, "flops": 150994944, "peak_bytes": 1310720}  # or some of them
    benchmark.extra_info["examples"] = {"dense": [1, 0, 1, 1], "half": [1, 0, 0, 1]}  # 1: answered right

The figures under "exact" are whole numbers; `bench.regress.counting.counted` counts them for a module. Parameters and
FLOPs must be equal to the last unit, but peak bytes may differ by less than `matters` says. The answers under
"examples" are compared on the same examples, in the same order; rows call them "NAME-dense" and "NAME-half".
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

from bench.regress.errors import GateError

EXACT = {"parameters": "parameters", "flops": "FLOPs", "peak_bytes": "bytes at the peak"}  # figure -> in a sentence
ACCURACY = "accuracy"
ANY = "any"  # stands for the figure where it isn't known which
LEVEL = 0.95
LEAST_SHARE, PAGE = 0.001, 4096  # of peak bytes: a change of less than both does not matter

Figures = Mapping[str, Mapping[str, Any]]  # benchmark -> its "exact" and its "examples"
Row = dict[str, Any]


class Difference(NamedTuple):
    """The difference of two accuracies on the same examples, head − base, with its 95 % interval.

    Attributes:
        value: the difference.
        low, high: the ends of the interval.
        lost: how many examples only the base answers right.
        won: how many only the head does.
    """

    value: float
    low: float
    high: float
    lost: int  # examples right on the base alone
    won: int  # on the head alone


def read(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the exact figures from pytest-benchmark's JSON: benchmark -> its "exact" and "examples", if it has any.

    The result consists of plain mappings and lists: written as JSON, it is a baseline to compare with later.

    Raises:
        GateError: `document` is no such JSON, or two benchmarks with exact figures share a name.
    """
    try:
        benchmarks = [(each["name"], each.get("extra_info") or {}) for each in document["benchmarks"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise GateError(
            'expected the JSON of pytest-benchmark, an object with "benchmarks" that each have a "name"; got '
            f"{document!r:.60}; write it with --benchmark-json=FILE"
        ) from error
    figures: dict[str, dict[str, Any]] = {}
    for name, extra in benchmarks:
        fields = {key: extra[key] for key in ("exact", "examples") if key in extra}
        if fields and name in figures:
            raise GateError(f"two benchmarks with exact figures are called {name!r}; give one of them another name")
        if fields:
            figures[name] = fields
    return figures


def compare(
    base: Figures, head: Figures, errors: Mapping[str, str] | None = None, skipped: Mapping[str, str] | None = None
) -> list[Row]:
    """Compare the figures of both sides: a row of verdict.json for each figure of each benchmark, the head's first.

    More parameters, FLOPs or bytes are REGRESSED, fewer are IMPROVED, if the difference is as large as `matters` says.
    An accuracy is REGRESSED or IMPROVED only if the interval of its difference excludes 0 (see `difference`). A figure
    that only the head has is NEW. A figure that only the base has is an ERROR, even if the head skips it, and so is a
    value that can't be a figure. What neither side has, because the head skips it, is SKIPPED.

    Args:
        errors: benchmark -> first line of what it raised on the head, for those that failed there.
        skipped: benchmark -> why the head skips it.

    Raises:
        GateError: the fields of a benchmark are no mappings.
    """
    failed = {name: f"it fails on the head: {error}" for name, error in (errors or {}).items()}
    left_out = {name: f"it is skipped: {why}" for name, why in (skipped or {}).items() if name not in failed}
    rows = []
    for name in dict.fromkeys([*head, *base, *failed, *left_out]):
        before, after = _values(name, base), _values(name, head)
        if why := failed.get(name) or left_out.get(name):
            rows += [_row(key, "ERROR", _shown(value), None, why) for key, value in before.items()]
            rows += [] if before else [_row((name, ANY), "ERROR" if name in failed else "SKIPPED", None, None, why)]
        else:
            rows += [_judged(key, before, after) for key in dict.fromkeys([*after, *before])]
    return rows


def difference(base: Sequence[int], head: Sequence[int]) -> Difference:
    """The difference head − base of two accuracies, from 0 or 1 (right) for each example, and its 95 % interval.

    The interval is Wald's with one example added to each of the two kinds that differ (Bonett and Price 2012, "Adjusted
    Wald confidence interval for a difference of binomial proportions based on paired data", J. Educ. Behav. Stat.
    37:479), which Fagerland, Lydersen and Laake recommend (2014, Stat. Med. 33:2850). If no example is newly answered
    right, six must be lost for the interval to exclude 0, as many as McNemar's exact test takes.
    """
    pairs = list(zip(base, head, strict=True))
    count, lost, won = len(pairs), pairs.count((1, 0)), pairs.count((0, 1))
    less, more = (lost + 1) / (count + 2), (won + 1) / (count + 2)
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt((less + more - (more - less) ** 2) / (count + 2))
    low, high = max(more - less - half, -1.0), min(more - less + half, 1.0)
    return Difference((won - lost) / count, low, high, lost, won)


Key = tuple[str, str]  # benchmark and figure, as a row names them


def _values(name: str, figures: Figures) -> dict[Key, Any]:
    """All figures of a benchmark: (benchmark, figure) -> value; the figure of a list of answers is "accuracy".

    Raises:
        GateError: its "exact" or its "examples" is no mapping.
    """
    fields = figures.get(name, {})
    exact, examples = (
        fields.get(field, {}) if isinstance(fields, Mapping) else None for field in ("exact", "examples")
    )
    if not (isinstance(exact, Mapping) and isinstance(examples, Mapping)):
        raise GateError(
            f'{name}: expected {{"exact": {{figure: number}}, "examples": {{model: [0 or 1, …]}}}}, got '
            f"{fields!r:.100}; fill extra_info so (bench/regress/exact.py), or store the baseline again"
        )
    values = {(name, figure): value for figure, value in exact.items()}
    return values | {(f"{name}-{model}", ACCURACY): right for model, right in examples.items()}


def _judged(key: Key, before: Mapping[Key, Any], after: Mapping[Key, Any]) -> Row:
    base, head = (_shown(values.get(key)) for values in (before, after))
    for side, values in (("base", before), ("head", after)):
        if key in values and (wrong := _wrong(key[1], values[key])):
            return _row(key, "ERROR", base, head, f"on the {side}: {wrong}")
    if key not in before:
        return _row(key, "NEW", base, head, "only the head has it")
    if key not in after:
        return _row(key, "ERROR", base, head, "only the base has it: the head must give it, too, to be compared")
    judge = _accuracy if key[1] == ACCURACY else _exact
    return judge(key, before[key], after[key])


def matters(figure: str, base: int) -> float:
    """The least difference of a figure, in its own unit, that is not a PASS: 1 unless it is "peak_bytes".

    Of those it is a thousandth of the base's, and at least a page of 4,096.
    """
    return max(LEAST_SHARE * base, PAGE) if figure == "peak_bytes" else 1


def _exact(key: Key, base: int, head: int) -> Row:
    if base == head:
        return _row(key, "PASS", base, head)
    way = "more" if head > base else "fewer"
    share = f", {(head / base - 1) * 100:+.3g} %" if base else ""
    why = f"{head:,} {EXACT[key[1]]} instead of {base:,}: {abs(head - base):,} {way}{share}"
    if abs(head - base) < (least := matters(key[1], base)):
        return _row(key, "PASS", base, head, f"{why}; less than {math.ceil(least):,} does not matter")
    return _row(key, "REGRESSED" if head > base else "IMPROVED", base, head, why)


def _accuracy(key: Key, base: Sequence[int], head: Sequence[int]) -> Row:
    shown = _shown(base), _shown(head)
    if len(base) != len(head):
        why = f"{len(base):,} examples on the base and {len(head):,} on the head; only the same ones can be compared"
        return _row(key, "ERROR", *shown, why)
    change = difference(base, head)
    verdict = "REGRESSED" if change.high < 0 else "IMPROVED" if change.low > 0 else "PASS"
    answers = f"of {len(base):,} examples {change.lost:,} are no longer answered right, and {change.won:,} newly are"
    return _row(key, verdict, *shown, answers if change.lost or change.won else None, change.low, change.high)


def _wrong(figure: str, value: Any) -> str | None:
    """What is wrong with the value of a figure, as a sentence; None if the value is one that the figure can have."""
    if figure == ACCURACY:
        fits = isinstance(value, Sequence) and len(value) > 0 and all(each in (0, 1) for each in value)
        return None if fits else f"expected one 0 or 1 for each example, got {value!r:.60}"
    if figure not in EXACT:
        return f"expected one of {', '.join(EXACT)}, got {figure!r}; exact figures have these names only"
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return None if fits else f"{figure}: expected a whole number, got {value!r:.60}"


def _shown(value: Any) -> float | int | None:
    """A figure as a number for JSON: a whole number as it is, a list of 0 and 1 as its mean, anything else as None."""
    if isinstance(value, Sequence) and value and all(each in (0, 1) for each in value):
        return sum(value) / len(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _row(
    key: Key,
    verdict: str,
    base: float | None,
    head: float | None,
    why: str | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Row:
    benchmark, figure = key
    row = {"benchmark": benchmark, "figure": figure, "verdict": verdict, "base": base, "head": head}
    return row | {"low": low, "high": high, "why": why}
