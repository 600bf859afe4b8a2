"""Puts what a verdict says into words and in order, for all formats that show one. Needs nothing but Python.

A verdict may come from a file that somebody else wrote: what is not of the type that belongs there counts as absent.
"""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

PASS, REGRESSED, IMPROVED, INCONCLUSIVE = "PASS", "REGRESSED", "IMPROVED", "INCONCLUSIVE"
NEW, SKIPPED, ERROR = "NEW", "SKIPPED", "ERROR"
ORDER = (REGRESSED, ERROR, INCONCLUSIVE, IMPROVED, NEW, SKIPPED, PASS)  # as rows stand: what must be looked at first
NONE = "–"
NAMED = 3  # rows that a headline names
LONGEST = 160  # characters of a name
COUNTS = ("parameters", "flops", "peak_bytes")  # exact figures that are whole numbers; accuracy is not


def number(value: Any) -> float | None:
    """The value, if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond any float
        return None


def clean(text: Any, longest: int = 2000) -> str:
    """At most `longest` characters of the text, on one line, without those that control a terminal or don't print."""
    # of a text without end only the start is looked at
    visible = "".join(" " if letter.isspace() else letter for letter in str(text)[: 10 * longest])
    kept = "".join(letter for letter in visible if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    line = " ".join(kept.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def name(row: Row) -> str:
    """The name of the benchmark that the row is about, at most LONGEST characters; "?" if it has none."""
    return clean(row.get("name", row.get("benchmark", "?")), LONGEST)


def mapping(value: Any) -> Row:
    """The value, if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def rows(verdict: Row, key: str = "benchmarks") -> list[Row]:
    """The rows of the verdict's benchmarks, or with the key "figures" those of its exact figures."""
    value = verdict.get(key)
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, Sequence) else []


def ordered(unordered: Iterable[Row]) -> list[Row]:
    """Sort rows by their verdicts as in ORDER, and those with the same verdict by effect, the slowest first."""
    return sorted(unordered, key=lambda row: (_rank(row), -_or(number(row.get("effect")), -math.inf), name(row)))


def reasons(verdict: Row) -> list[str]:
    """The sentences on why the whole run has its verdict, from its field `why`; empty if there are none."""
    why = verdict.get("why")
    return [clean(sentence) for sentence in why] if isinstance(why, list | tuple) else []


def others(verdict: Row) -> list[str]:
    """The sentences on why the run has its verdict (`reasons`), without the one that is already its headline."""
    shown = headline(verdict)
    return [sentence for sentence in reasons(verdict) if sentence != shown]


def outcome(verdict: Row) -> str:
    """The verdict's word, such as "PASS": of the whole run, or of a row."""
    return clean(verdict.get("verdict", "?"), 40)


def time(row: Row, side: str) -> str:
    """The row's "base" or "head" as a reader would write it: 6.370 ms, 980.0 µs, or a bare ratio; NONE if absent."""
    value = number(row.get(side))
    if value is None:
        return NONE
    if row.get("kind") == "ratio":
        return f"{value:.3f}"
    unit, factor = ("s", 1.0) if value >= 1 else ("ms", 1e3) if value >= 1e-3 else ("µs", 1e6)
    shown = value * factor
    places = 3 - math.floor(math.log10(shown)) if shown > 0 else 0
    return f"{shown:.{min(max(places, 0), 3)}f} {unit}"


def percent(share: Any, style: str = "+.1f") -> str:
    """A share as a number of per cent, without the sign of per cent: +4.8 for 0.048; NONE if it is no number."""
    value = number(share)
    return NONE if value is None else f"{100 * value:{style}}"


def interval(row: Row, style: str = "+.1f") -> str:
    """The interval of a row's effect in per cent, as [+4.8, +7.5]; NONE if the row has none."""
    low, high = number(row.get("low")), number(row.get("high"))
    return NONE if low is None or high is None else f"[{percent(low, style)}, {percent(high, style)}]"


def chance(value: Any) -> str:
    """A p value as text: 0.60, 0.0039, < 0.0001; NONE if it is no number."""
    p = number(value)
    if p is None:
        return NONE
    return "< 0.0001" if p < 1e-4 else f"{p:.2f}" if p >= 0.1 else f"{p:.4f}"


def exact(row: Row, side: str) -> str:
    """An exact figure of the row's "base" or "head" as text: a count with every digit, 1,050,624, others as 0.9512."""
    value = number(row.get(side))
    if value is None:
        return NONE
    if row.get("figure") in COUNTS and value == math.floor(value):
        return f"{int(row[side]):,}"
    return f"{value:.6g}"


def change(row: Row) -> str:
    """How much an exact figure changed: +1.2 % if it is a count, +0.0012 and its interval if it is an accuracy.

    A count that was 0 changes by a number, +12. NONE if a side has no value.
    """
    base, head = number(row.get("base")), number(row.get("head"))
    if base is None or head is None:
        return NONE
    if row.get("figure") not in COUNTS:
        low, high = number(row.get("low")), number(row.get("high"))
        return f"{head - base:+.4f}" + ("" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]")
    return f"{100 * (head / base - 1):+.3g} %" if base else f"{head - base:+,.0f}"


def has_changed(row: Row) -> bool:
    """Whether an exact figure's row should be shown: its verdict is not PASS, or the two sides' values differ."""
    return outcome(row) != PASS or number(row.get("base")) != number(row.get("head"))


def unchanged(verdict: Row) -> str:
    """How many exact figures passed with equal values on both sides, as "3 exact figures unchanged"; "" if none."""
    same = sum(not has_changed(row) for row in rows(verdict, "figures"))
    return f"{count(same, 'exact figure')} unchanged" if same else ""


def figure(row: Row) -> str:
    """The name of a row's exact figure as words, such as "peak bytes"; "?" if it has none."""
    return clean(row.get("figure", "?"), 40).replace("_", " ")


def moved(row: Row) -> str:
    """How a benchmark's time changed, as "dense-4x64 is 6.1 % slower [4.8, 7.5]"; the name alone if unknown."""
    effect = number(row.get("effect"))
    if effect is None:
        return name(row)
    relative = ", relative to dense" if row.get("kind") == "ratio" else ""
    if effect >= 0:
        return f"{name(row)} is {percent(effect, '.1f')} % slower{relative} {interval(row, '.1f')}"
    low, high = number(row.get("low")), number(row.get("high"))
    flipped = {"low": None if high is None else -high, "high": None if low is None else -low}
    return f"{name(row)} is {percent(-effect, '.1f')} % faster{relative} {interval(flipped, '.1f')}"


def headline(verdict: Row) -> str:
    """What came out of the run, as the one sentence that stands behind the verdict's word.

    It says what regressed or improved and by how much, how many rows passed, or which rows are new, failed or can't be
    judged; at most NAMED rows are named. Where no row has the run's verdict, it is the first of its reasons.
    """
    overall, timed, counted = outcome(verdict), ordered(rows(verdict)), rows(verdict, "figures")
    same = [row for row in timed if outcome(row) == overall]
    figures = [row for row in counted if outcome(row) == overall]
    if overall in (REGRESSED, IMPROVED):
        changes = [*map(moved, same if overall == REGRESSED else same[::-1]), *map(_went, figures)]
        if changes:
            more = f"; {len(changes) - NAMED} more" if len(changes) > NAMED else ""
            return "; ".join(changes[:NAMED]) + more
    if overall == PASS:
        done, told = ([row for row in several if outcome(row) != SKIPPED] for several in (timed, counted))
        skipped = len(timed) + len(counted) - len(done) - len(told)
        more = f"; {skipped} skipped" if skipped else ""
        return f"no regression in {count(len(done), 'benchmark')} and {count(len(told), 'exact figure')}{more}"
    what = {NEW: "new, with no base to compare with", ERROR: "ended in an error", INCONCLUSIVE: "can't be judged"}
    if overall in what and (same or figures):
        names = [*map(name, same), *(f"{figure(row)} of {name(row)}" for row in figures)]
        return f"{_several(names)}: {what[overall]}"
    return next(iter(reasons(verdict)), "no reason is given")


def judged(row: Row) -> str:
    """The reason for a row's verdict, and what the first look saw if there was a second; "" if there is neither."""
    parts = [clean(row["why"])] if row.get("why") else []
    screen, rounds = mapping(row.get("screen")), number(row.get("rounds"))
    if screen:
        again = "" if rounds is None else f" ({rounds:.0f} rounds)"
        seen = f"{percent(screen.get('effect'))} % {interval(screen)}"
        parts.append(f"measured again{again}; the first look saw {seen}")
    return "; ".join(parts)


def notes(shown: Iterable[Row]) -> list[str]:
    """The reasons for these rows' verdicts (`judged`), as sentences; rows with the same reason share one."""
    names_by_note: dict[str, list[str]] = {}
    for row in shown:
        if note := judged(row):
            names_by_note.setdefault(note, []).append(f"{figure(row)} of {name(row)}" if "figure" in row else name(row))
    return [f"{_several(names)}: {note}" for note, names in names_by_note.items()]


def side(verdict: Row, which: str) -> str:
    """One side, "base" or "head", as text: origin/main (1234567890, with uncommitted changes)."""
    facts = mapping(verdict.get(which))
    revision = clean(facts["revision"], 40)[:10] if facts.get("revision") else "no revision"
    dirty = ", with uncommitted changes" if facts.get("dirty") is True else ""
    return f"{clean(facts.get('label', which), 100)} ({revision}{dirty})"


def machine(verdict: Row) -> str:
    """The machine as a few words: processor, cores, threads, and how many cores others used meanwhile."""
    facts = mapping(verdict.get("machine"))
    parts = [clean(facts["cpu"], 100)] if facts.get("cpu") else []
    parts += [
        f"{value:.0f} {noun if value == 1 else noun + 's'}"
        for key, noun in (("cores", "core"), ("threads", "thread"))
        if (value := number(facts.get(key))) is not None
    ]
    if (load := number(verdict.get("load"))) is not None:
        parts.append(f"{load:.2f} cores used by others meanwhile")
    return ", ".join(parts)


def python(verdict: Row) -> str:
    """The versions of Python and of torch, as "Python 3.12.3, torch 2.11.0"; both Pythons if the sides differ."""
    versions = [clean(mapping(verdict.get(which)).get("python") or "?", 20) for which in ("base", "head")]
    torch = mapping(mapping(verdict.get("machine")).get("packages")).get("torch")
    text = f"Python {versions[0]}" if versions[0] == versions[1] else f"Python {versions[0]} against {versions[1]}"
    return f"{text}, torch {clean(torch, 40)}" if torch else text


def rules(verdict: Row) -> str:
    """The rules by which a run is judged, as one sentence that names the limits in this verdict's `rules`."""
    limits = mapping(verdict.get("rules"))
    threshold, least, blind = (percent(limits.get(key), ".3g") for key in ("threshold", "least", "blind"))
    level, fdr = percent(limits.get("level"), ".4g"), percent(limits.get("fdr"), ".3g")
    return (
        f"REGRESSED if the one-sided {level} % lower bound of a slowdown is above {threshold} % and above the noise "
        f"floor, the estimate is at least {least} % and significant among all benchmarks (Benjamini-Hochberg, "
        f"{fdr} %), and a second measurement agrees; PASS only if a slowdown of {blind} % would have been seen; "
        "exact figures may not get worse (peak bytes: not by 0.1 % and 4,096)."
    )


def spent(verdict: Row) -> str:
    """How many seconds the run took, and how many it might have taken, as "95 s of at most 600 s"; "" if not known."""
    seconds, budget = number(verdict.get("seconds")), number(verdict.get("budget"))
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if budget is None else f"{seconds:.0f} s of at most {budget:.0f} s"


def count(number_of: int, noun: str) -> str:
    """A number with its noun, in the plural where it is not 1."""
    return f"{number_of} {noun}" if number_of == 1 else f"{number_of} {noun}s"


def _went(row: Row) -> str:
    """How an exact figure changed, as "parameters of NAME went from 12 to 13 (+8.33 %)"."""
    return f"{figure(row)} of {name(row)} went from {exact(row, 'base')} to {exact(row, 'head')} ({change(row)})"


def _several(names: list[str]) -> str:
    """The first NAMED names, separated by commas, and how many more there are: "a, b, c and 4 more"."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _rank(row: Row) -> int:
    """The place of the row's verdict in `ORDER`, by which rows are sorted; 0, the first, for one that is not there."""
    verdict = outcome(row)
    return ORDER.index(verdict) if verdict in ORDER else 0


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
