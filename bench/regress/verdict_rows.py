"""Makes the verdict's rows from the rounds: a verdict, an effect and the reasons for each benchmark."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import exp
from statistics import fmean, median
from typing import Any

from bench.regress.baseline import Baseline
from bench.regress.measuring import AGAIN, SCREEN, TIMES, GateOptions, GateRounds, wanted_rounds
from bench.regress.rounds import CONTROL_NAME, PROCESSES
from bench.regress.statistics import Effect
from bench.regress.verdict import (
    ERROR,
    INCONCLUSIVE,
    NEW,
    PASS,
    SKIPPED,
    Looks,
    has_moved,
    is_regression,
    judge,
    mirrored,
)

BUSY = 0.5  # the share that others may use of the cores which the benchmarks leave idle
LEAST_IDLE = 0.25  # cores; where the benchmarks leave none, others may use half of so many


Row = dict[str, Any]
GONE = "only the base has it: give it back to the head's benchmarks, or say that it may go, by --without"
EMPTY = dict.fromkeys(("base", "head", "effect", "low", "high", "floor", "p", "adjusted", "screen"))


def rows_of(
    rounds: GateRounds, options: GateOptions, only_base: Sequence[str] = (), baseline: Baseline | None = None
) -> list[Row]:
    """The rows of the verdict: one for each benchmark that either side has; with a baseline, for each of its ratios.

    A row is a mapping with the fields that verdict.json has under `benchmarks`. The control has none.

    Args:
        rounds: what has been measured.
        options: by whose `rules` benchmarks are judged.
        only_base: benchmarks that the base's own files have, and the head's no longer have; each is an ERROR.
        baseline: the stored run that takes the place of the base, if any.
    """
    compared = {name: looks for name in rounds.compared() if (looks := rounds.looks(name))}
    judged = judge(compared, options.rules)
    others = list(_others(rounds) if baseline is None else _missing(rounds, baseline))
    others += [(name, ERROR, GONE) for name in only_base]
    names = _named([*compared, *(name for name, _, _ in others)])
    kind = "seconds" if baseline is None else "ratio"
    rows = []
    for name, looks in compared.items():
        verdict, why, p = judged[name]
        if unconfirmed := _unconfirmed(rounds, looks, options):
            verdict, why = INCONCLUSIVE, unconfirmed
        before, after = _sides(rounds, name, looks, baseline)
        rows.append(_row(names[name], kind, before, after, looks, verdict, why, p))
    rows += [
        {"name": names[name], "kind": kind, "verdict": verdict, "why": why, **EMPTY, "rounds": 0}
        for name, verdict, why in others
    ]
    return rows


def control_row(rounds: GateRounds) -> Row | None:
    """The row of the control over the rounds of both looks, with the verdict PASS; None if the rounds are too few."""
    seen = rounds.effect(CONTROL_NAME, SCREEN, AGAIN)
    if seen is None:
        return None
    looks = Looks(seen)
    return _row("control", "seconds", *_sides(rounds, CONTROL_NAME, looks), looks, PASS, None, seen.p)


def doubts(rounds: GateRounds, options: GateOptions, cores: int) -> list[str]:
    """The reasons, as sentences, why nothing in this run can be trusted; usually there are none.

    Doubtful is a run whose time budget ended before the first look was complete, whose control has moved, or during
    which other work used too many of the machine's `cores`.
    """
    return list(_doubts(rounds, options, cores))


def _doubts(rounds: GateRounds, options: GateOptions, cores: int) -> Iterator[str]:
    compared = rounds.compared()
    wanted, screened = wanted_rounds(len(compared), options.rules.fdr), len(rounds.of(SCREEN))
    if compared and screened < wanted:
        yield (
            f"The time budget of {options.budget:g} s ended after {screened} of {wanted} rounds; a round of all "
            f"{len(compared)} benchmarks takes {rounds.cost(None):.0f} s: give more by --budget, or fewer benchmarks"
        )
    control = rounds.effect(CONTROL_NAME, SCREEN, AGAIN)
    if control and has_moved(control, options.rules):
        yield (
            f"The control workload, which no change to mha can touch, moved by {control.estimate:+.1%} "
            f"[{control.low:+.1%}, {control.high:+.1%}]: the machine treated the two sides differently. Run again"
        )
    allowed = BUSY * max(cores - options.threads, LEAST_IDLE)
    if rounds.load is not None and rounds.load > allowed:
        yield (
            f"Other work used {rounds.load:.2f} cores on average; up to {allowed:.2f} is quiet enough here. "
            "End it, and run again"
        )


def _unconfirmed(rounds: GateRounds, looks: Looks, options: GateOptions) -> str | None:
    """A sentence if the budget ended before a second look could confirm the change seen in the first; else None."""
    rules = options.rules
    wanted = TIMES * wanted_rounds(len(rounds.compared()), rules.fdr)
    done = looks.again.rounds if looks.again else 0
    if done >= wanted or not any(is_regression(seen, 0.0, rules) for seen in (looks.screen, mirrored(looks.screen))):
        return None
    return (
        f"{looks.screen.estimate:+.1%} in the first look, but the time ended after {done} of the {wanted} rounds that "
        "confirm it: give more by --budget"
    )


def _others(rounds: GateRounds) -> Iterator[tuple[str, str, str]]:
    """Yield each benchmark that can't be compared in every round of the first look: its name, verdict and the reason.

    Its verdict is ERROR, SKIPPED, or NEW where the head alone can run it.
    """
    screened = rounds.of(SCREEN)
    if not screened:
        return
    compared = set(rounds.compared())
    errors, skipped = ({arm: _said(screened, what, arm) for arm in ("base", "head")} for what in ("errors", "skipped"))
    names = {name for record in screened for name in record["seconds"]}
    names = names.union(*errors.values(), *skipped.values())
    for name in sorted(names - compared - {CONTROL_NAME}):
        base, head = errors["base"].get(name), errors["head"].get(name)
        if head:
            where = "on both sides" if base else "on the head alone"
            yield name, ERROR, f"it fails {where}: {head}"
        elif name in skipped["head"]:
            yield name, *_skipped(skipped["head"][name], _times(screened, name, "base") > 0)
        elif _times(screened, name, "head") == PROCESSES * len(screened):
            why = f"the base skips it: {skipped['base'][name]}" if name in skipped["base"] else None
            yield name, NEW, why or f"the base can't run it: {base or 'it is not there'}"
        else:
            yield name, ERROR, f"it was not measured in every round ({base or 'no error was said'}); is it flaky?"


def _said(records: Sequence[Mapping[str, Any]], what: str, arm: str) -> dict[str, str]:
    """Benchmark -> the first message about it that the rounds' records hold for an arm.

    Args:
        what: the field of a record in which to look, "errors" or "skipped".
        arm: "base" or "head".
    """
    return {name: note for record in reversed(records) for name, note in record.get(what, {}).get(arm, {}).items()}


def _skipped(why: str, base_has_it: bool) -> tuple[str, str]:
    """The verdict and the reason of a benchmark that the head skips: ERROR if the base has it, else SKIPPED.

    `why` is what the head says of the skip.
    """
    if base_has_it:
        return ERROR, f"the head skips it, and the base does not: {why}"
    return SKIPPED, f"it is skipped: {why}"


def _times(records: Sequence[Mapping[str, Any]], name: str, arm: str) -> int:
    """In how many processes of an arm ("base" or "head") the benchmark `name` was timed, over these rounds' records."""
    return sum(process.startswith(arm) for record in records for process in record["seconds"].get(name, {}))


def _missing(rounds: GateRounds, baseline: Baseline) -> Iterator[tuple[str, str, str]]:
    """Yield each ratio that only the baseline has: its name, its verdict (SKIPPED or ERROR) and the reason."""
    errors, skipped = (_said(rounds.of(SCREEN), what, "head") for what in ("errors", "skipped"))
    for name in sorted(set(baseline.ratios) - set(rounds.compared())):
        if name in skipped:
            yield name, *_skipped(skipped[name], base_has_it=False)  # another machine may be able to do it
        else:
            yield name, ERROR, f"only the baseline has it: {errors.get(name, 'the head has no such benchmark')}"


def _sides(
    rounds: GateRounds, name: str, looks: Looks, baseline: Baseline | None = None
) -> tuple[float | None, float | None]:
    """The median seconds of a benchmark on base and head in the last look at it; with a baseline, the median ratios."""
    phase = AGAIN if looks.again else SCREEN
    records = [record for record in rounds.of(phase) if name in record["contrasts"]]
    if baseline is None:
        seconds = [record["seconds"][name] for record in records]
        return _median(seconds, "base"), _median(seconds, "head")
    logs = [fmean(record["ratios"][name]) for record in records]
    return exp(median(baseline.ratios[name])), exp(median(logs))


def _row(
    name: str,
    kind: str,
    base: float | None,
    head: float | None,
    looks: Looks,
    verdict: str,
    why: str | None,
    p: float | None,
) -> Row:
    """The row of the verdict for a benchmark that was compared.

    Args:
        kind: the unit of `base` and `head`: "seconds" or "ratio".
        looks: the effects; the row's is that of the second look if there was one.
        why: the reason for the verdict, if it needs one.
        p: adjusted for all benchmarks.
    """
    return {
        "name": name,
        "kind": kind,
        "verdict": verdict,
        "why": why,
        "base": base,
        "head": head,
        **_fields(looks.again or looks.screen),
        "adjusted": p,
        "screen": _fields(looks.screen) if looks.again else None,
    }


def _fields(seen: Effect) -> Row:
    fields = seen._asdict()
    return {
        "effect": fields.pop("estimate"),
        **{name: fields[name] for name in ("low", "high", "floor", "p", "rounds")},
    }


def _median(rounds: Sequence[Mapping[str, Sequence[float]]], arm: str) -> float:
    """The median of all medians of one process in one round, over the processes of an arm and the rounds.

    `rounds` has for each round: process -> seconds of a call in each turn.
    """
    return median(median(samples) for each in rounds for process, samples in each.items() if process.startswith(arm))


def short(name: str) -> str:
    """A short name of a benchmark: its parameters, or its function, or its file.

    >>> short("bench/regress/bench_gate.py::test_forward[dense-4x64]"), short("bench_mine.py::test_mine")
    ('dense-4x64', 'test_mine')
    """
    parameters = re.search(r"\[(.+)\]$", name)
    return parameters[1] if parameters else name.rpartition("::")[2]


def _named(names: Sequence[str]) -> dict[str, str]:
    """Benchmark -> the name to show: the short one, or the whole where several would be the same; "(all)" for ""."""
    counts = Counter(short(name) for name in set(names))
    return {name: short(name) if short(name) and counts[short(name)] == 1 else name or "(all)" for name in names}
