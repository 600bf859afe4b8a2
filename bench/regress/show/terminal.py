"""The verdict in a terminal, or in a log: readable in 100 columns and without colour."""

import sys
from collections.abc import Iterator
from typing import TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.regress.show import verdict_text as words
from bench.regress.show.verdict_text import Row

WIDTH = 100  # columns where nobody says how many there are, as in a pipe
STYLES = {
    words.REGRESSED: "bold red",
    words.ERROR: "bold magenta",
    words.INCONCLUSIVE: "yellow",
    words.IMPROVED: "green",
    words.NEW: "cyan",
    words.SKIPPED: "dim",
}
TIMES = ("benchmark", "base", "head", "effect %", "95 % interval", "floor %", "adj. p", "verdict")
FIGURES = ("benchmark", "exact figure", "base", "head", "change", "verdict")


def table(verdict: Row) -> RenderableType:
    """The whole verdict (what verdict.json holds), for rich to print.

    It has what came out and why, a row for each benchmark, the exact figures that changed, and where all was measured.
    """
    parts: list[RenderableType] = [_headline(verdict), *map(_bullet, words.others(verdict)), ""]
    if words.rows(verdict) or verdict.get("control"):
        parts += [_times(verdict), ""]
    changed = words.ordered(filter(words.has_changed, words.rows(verdict, "figures")))
    if changed:
        parts += [_figures(changed), ""]
    if notes := words.notes([*words.ordered(words.rows(verdict)), *changed]):
        parts += [*map(_bullet, notes), ""]
    parts += [Text(line) for line in _footer(verdict)]
    return Group(*parts)


def show(verdict: Row, file: TextIO | None = None) -> None:
    """Print the verdict to `file` (default: standard output), at least WIDTH columns wide; in colour on a terminal."""
    file = file or sys.stdout
    console = Console(file=file, highlight=False)
    # a line that the terminal wraps can be read, a number cut off can't
    console.width = max(console.width, WIDTH) if file.isatty() else WIDTH
    console.print(table(verdict))


def _headline(verdict: Row) -> Text:
    overall = words.outcome(verdict)
    return Text.assemble((overall, STYLES.get(overall, "bold")), f": {words.headline(verdict)}")


def _bullet(sentence: str) -> RenderableType:
    """A sentence after a dash, its further lines indented like the first."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(" -", Text(sentence))
    return grid


def _times(verdict: Row) -> Table:
    """The table of the benchmarks, with the control as its last row."""
    table = _table(TIMES, right=range(1, 7))
    for row in words.ordered(words.rows(verdict)):
        _add(table, words.name(row), row)
    if control := words.mapping(verdict.get("control")):
        table.add_section()
        _add(table, f"control: {words.name(control)}" if words.name(control) != "control" else "control", control)
    return table


def _add(table: Table, name: str, row: Row) -> None:
    cells = (
        name, words.time(row, "base"), words.time(row, "head"), words.percent(row.get("effect")), words.interval(row),
        words.percent(row.get("floor"), ".1f"), words.chance(row.get("adjusted")),
    )  # fmt: skip
    table.add_row(*map(Text, cells), _word(row))


def _figures(changed: list[Row]) -> Table:
    """The table of exact figures; `changed` are their rows, in order."""
    table = _table(FIGURES, right=range(2, 5))
    for row in changed:
        cells = (
            words.name(row), words.figure(row), words.exact(row, "base"), words.exact(row, "head"), words.change(row),
        )  # fmt: skip
        table.add_row(*map(Text, cells), _word(row))
    return table


def _table(names: tuple[str, ...], right: range) -> Table:
    """An empty table with these headings; the columns whose numbers are in `right` are aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for place, heading in enumerate(names):
        table.add_column(
            heading, justify="right" if place in right else "left", no_wrap=place > 0,
            overflow="fold" if place == 0 else "ellipsis", min_width=12 if place == 0 else None,
        )  # fmt: skip
    return table


def _word(row: Row) -> Text:
    word = words.outcome(row)
    return Text(word, STYLES.get(word, ""))


def _footer(verdict: Row) -> Iterator[str]:
    if same := words.unchanged(verdict):
        yield same
    yield f"base {words.side(verdict, 'base')}, head {words.side(verdict, 'head')}"
    if words.mapping(verdict.get("head")).get("dirty") is True:
        yield "the head has uncommitted changes and was measured with them"
    if verdict.get("mode") == "baseline":
        yield "a stored run is compared by ratios (pruned/dense) and exact figures only: times of it don't count"
    yield words.machine(verdict)
    yield ", ".join(filter(None, (words.python(verdict), words.spent(verdict))))
