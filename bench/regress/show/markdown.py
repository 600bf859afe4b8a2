"""The verdict as Markdown, for a job's summary or a comment on a pull request. Needs nothing but Python."""

import re
from collections.abc import Iterable, Sequence

from bench.regress.show import verdict_text as words
from bench.regress.show.verdict_text import Row

MARKER = "<!-- mha-gate -->"  # by which the one comment is found again
LIMIT = 65_000  # bytes, all in all; GitHub refuses a comment of more than 65,536 characters
LONGEST = 300  # characters of a sentence from a result
APART = "&#8203;"  # a space of no width: GitHub links a name or a number only to what stands right before it
TIMES = ("benchmark", "base", "head", "effect (%)", "95 % interval", "noise floor (%)", "adjusted p", "verdict")
FIGURES = ("benchmark", "exact figure", "base", "head", "change", "verdict")


def markdown(verdict: Row) -> str:
    """The verdict as one page that begins with MARKER, at most LIMIT bytes: rows beyond that are counted, not shown."""
    page = _Page(f"{MARKER}\n{_headline(verdict)}\n", _foot(verdict))
    page.items(words.others(verdict))
    timed, control = words.ordered(words.rows(verdict)), words.mapping(verdict.get("control"))
    if control:
        timed.append({**control, "name": "control"})
    passed = [row for row in timed if words.outcome(row) == words.PASS]
    flagged = [row for row in timed if words.outcome(row) != words.PASS]
    changed = words.ordered(filter(words.has_changed, words.rows(verdict, "figures")))
    page.table(TIMES, map(_time, flagged), texts=1)
    page.table(FIGURES, map(_figure, changed), texts=2)
    page.items(words.notes([*flagged, *changed, *passed]))
    if same := words.unchanged(verdict):
        page.text(f"{same}.\n")
    if passed:
        page.text(f"<details><summary>{words.count(len(passed), 'row')} without a finding</summary>\n")
        page.table(TIMES, map(_time, passed), texts=1)
        page.text("</details>\n")
    return page.whole()


def escape(text: str, longest: int = LONGEST) -> str:
    """At most `longest` characters of the text, on one line, escaped for a table's cell in Markdown on GitHub.

    None of it is markup, ends the cell, or notifies or links anyone or anything.
    """
    line = re.sub(r"([\\`*_\[\]~|#])", r"\\\1", words.clean(text, longest))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = line.replace("$", "<span>$</span>")  # or two of them would enclose a formula
    line = re.sub(r"(@|#|:(?=//)|\bwww(?=\.)|\bgh(?=-\d))", rf"\1{APART}", line, flags=re.IGNORECASE)
    return re.sub(r"^(\d*)([-+=]|(?<=\d)[.)])", r"\1\\\2", line)  # no list, no heading in a list


class _Page:
    """A page of at most LIMIT bytes that is being put together, with the text `head` first and `foot` last."""

    def __init__(self, head: str, foot: str) -> None:
        self._parts, self._foot, self._left_out = [head], foot, 0
        self._room = LIMIT - _size(head) - _size(foot) - _size(self._cut(10**9))

    def text(self, text: str) -> None:
        """Add a text as it is, whether or not there is room."""
        self._parts.append(text)
        self._room -= _size(text) + 1

    def items(self, sentences: Iterable[str]) -> None:
        """Add sentences, escaped, as a list, as far as there is room; those that don't fit are counted as left out."""
        self._add([f"- {escape(sentence)}" for sentence in sentences])

    def table(self, names: Sequence[str], cells: Iterable[Sequence[str]], texts: int) -> None:
        """Add a table, as far as there is room; those of its rows that don't fit are counted as left out.

        Args:
            names: the headings.
            cells: the text of each cell, row by row.
            texts: how many columns, from the first, hold words; the last one does, too, and all others hold numbers.
        """
        lines = [f"| {' | '.join(row)} |" for row in cells]
        rule = ["---" if place < texts or place == len(names) - 1 else "---:" for place in range(len(names))]
        self._add(lines, f"| {' | '.join(names)} |\n| {' | '.join(rule)} |")

    def whole(self) -> str:
        """The whole page as text."""
        cut = self._cut(self._left_out) if self._left_out else ""
        return "\n".join(filter(None, [*self._parts, cut, self._foot]))

    def _add(self, lines: Sequence[str], above: str = "") -> None:
        """Add as many of the lines as there is room for, below `above`, and count the others as left out."""
        kept = [above] if above else []
        room = self._room - _size(above) - 300  # what closes a page is never cut
        for line in lines:
            room -= _size(line) + 1
            if room < 0:
                break
            kept.append(line)
        shown = len(kept) - bool(above)
        self._left_out += len(lines) - shown
        if shown:
            self.text("\n".join(kept) + "\n")

    @staticmethod
    def _cut(lines: int) -> str:
        """The line of the page that says how many lines are left out."""
        return (
            f"{words.count(lines, 'line')} left out: GitHub takes comments of at most 65,536 characters; "
            "all is in verdict.json.\n"
        )


def _headline(verdict: Row) -> str:
    return f"**{escape(words.outcome(verdict))}**: {escape(words.headline(verdict))}"


def _foot(verdict: Row) -> str:
    """The end of the page: what was compared, where it was measured, the rules, and the command that repeats it."""
    lines = [f"- compared: base {escape(words.side(verdict, 'base'))}, head {escape(words.side(verdict, 'head'))}"]
    if verdict.get("mode") == "baseline":
        lines.append("- a stored run is compared by ratios (pruned/dense) and exact figures only")
    circumstances = [words.machine(verdict), words.python(verdict), words.spent(verdict)]
    lines.append(f"- measured: {escape(', '.join(filter(None, circumstances)))}")
    lines.append(f"- rules: {escape(words.rules(verdict), 1000)}")
    lines.append("- to repeat it:\n")
    command = words.clean(verdict.get("command", "python -m bench.regress"))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return "\n".join([*lines, f"  {fence}shell\n  {command}\n  {fence}\n"])


def _time(row: Row) -> list[str]:
    """The text of each cell in the row of a benchmark, in the order of TIMES."""
    return [
        escape(words.name(row)),
        words.time(row, "base"),
        words.time(row, "head"),
        words.percent(row.get("effect")),
        words.interval(row),
        words.percent(row.get("floor"), ".1f"),
        words.chance(row.get("adjusted")).replace("<", "&lt;"),
        escape(words.outcome(row)),
    ]


def _figure(row: Row) -> list[str]:
    """The text of each cell in the row of an exact figure, in the order of FIGURES."""
    return [
        escape(words.name(row)), escape(words.figure(row)), words.exact(row, "base"), words.exact(row, "head"),
        words.change(row), escape(words.outcome(row)),
    ]  # fmt: skip


def _size(text: str) -> int:
    return len(text.encode("utf-8"))
