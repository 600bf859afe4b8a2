"""The verdict as JUnit XML, for whatever collects test results. Needs nothing but Python."""

import re
from xml.etree import ElementTree as ET

from bench.regress.show import verdict_text as words
from bench.regress.show.verdict_text import Row

SUITE = "mha gate"
PROPERTIES = ("effect", "low", "high", "floor", "adjusted")
TAGS = {  # of a testcase that has not simply passed
    words.REGRESSED: "failure",
    words.ERROR: "error",
    words.INCONCLUSIVE: "skipped",
    words.NEW: "skipped",
    words.SKIPPED: "skipped",
}
COUNTED = {"failure": "failures", "error": "errors", "skipped": "skipped"}
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0, escaped or not


def junit(verdict: Row) -> str:
    """The verdict as text of XML: one testsuite, with a testcase for each benchmark and each exact figure.

    Where the whole run's verdict is one of TAGS, but none of its rows has it, one more testcase says so: without it the
    file would read as if all had passed.
    """
    overall = words.outcome(verdict)
    timed, figures = words.ordered(words.rows(verdict)), words.rows(verdict, "figures")
    cases = [_case("benchmark", words.name(row), row, _message(row)) for row in timed]
    cases += [_case("exact", f"{words.name(row)} {words.figure(row)}", row, _went(row)) for row in figures]
    if overall in TAGS and overall not in map(words.outcome, (*timed, *figures)):
        why = "; ".join(words.reasons(verdict)) or words.headline(verdict)
        cases.append(_case("verdict", overall, verdict, why))
    counts = {"tests": len(cases)} | {COUNTED[tag]: _with(cases, tag) for tag in COUNTED}
    totals = {"name": SUITE, **{name: str(count) for name, count in counts.items()}, "time": _seconds(verdict)}
    root = ET.Element("testsuites", totals)
    suite = ET.SubElement(root, "testsuite", totals | {"timestamp": _legal(str(verdict.get("created", "")))})
    _properties(suite, {"verdict": overall} | {which: words.side(verdict, which) for which in ("base", "head")})
    suite.extend(cases)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _case(kind: str, name: str, row: Row, message: str) -> ET.Element:
    """The testcase of a row, named `name` in the class "gate.KIND"; it shows `message` unless it passed or improved."""
    seconds = words.number(row.get("head")) if row.get("kind") == "seconds" else None
    case = ET.Element("testcase", classname=f"gate.{kind}", name=_legal(name), time=f"{seconds or 0:.9f}")
    numbers = {name: words.number(row.get(name)) for name in PROPERTIES}
    _properties(case, {name: repr(value) for name, value in numbers.items() if value is not None})
    if tag := TAGS.get(words.outcome(row)):
        text = _legal(f"{words.outcome(row)}: {message}")
        ET.SubElement(case, tag, message=text, type=words.outcome(row)).text = text
    return case


def _message(row: Row) -> str:
    """What the testcase of a benchmark says: how its time changed, and why it has its verdict."""
    parts = [words.moved(row)] if words.number(row.get("effect")) is not None else []
    return "; ".join([*parts, *filter(None, [words.judged(row)])]) or "no reason is given"


def _went(row: Row) -> str:
    """What the testcase of an exact figure says: its value on both sides, and why it has its verdict."""
    seen = f"{words.exact(row, 'base')} at the base, {words.exact(row, 'head')} at the head"
    return "; ".join(filter(None, [seen, words.judged(row)]))


def _properties(parent: ET.Element, values: dict[str, str]) -> None:
    """Add the values to an element as its list of properties, if there are any."""
    if values:
        properties = ET.SubElement(parent, "properties")
        for name, value in values.items():
            ET.SubElement(properties, "property", name=name, value=_legal(value))


def _with(cases: list[ET.Element], tag: str) -> int:
    """How many testcases have a child with this tag, such as "failure"."""
    return sum(case.find(tag) is not None for case in cases)


def _seconds(verdict: Row) -> str:
    return f"{words.number(verdict.get('seconds')) or 0:.3f}"


def _legal(text: str) -> str:
    """The text without characters that XML 1.0 forbids even where they are escaped."""
    return FORBIDDEN.sub("", text)
