"""What the page of a criterion shows without saying it a second time.

`{criterion} NAME` is what the code says of a criterion: what it measures, needs and takes; without a name, of all.
`{criterion-measured} NAME` is what docs/importance.md has about it, whose tables `nox -s importance` writes.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import mha.importance  # the criteria register themselves  # noqa: F401
from mha.importance.registry import criteria, describe

MEASURED = Path(__file__).with_name("importance.md")
SECTION = re.compile(r"^(Args|Raises|Returns|Example):\n((?:(?:    .*)?\n?)+)", re.MULTILINE)
ENTRY = re.compile(r"^(\w[\w, ]*): ((?:.|\n(?=    ))+)", re.MULTILINE)
CAPTIONS = {  # how the line before a table begins -> what the table is called
    "Measured ": "over all tasks",
    "On `": "on `{}`",
    "Planted": "planted heads kept, by scenario",
    "All subsets": "against the best of all subsets",
}


class Table(NamedTuple):
    """A table of a Markdown page: the heading that it stands under, the line before it, its head and its rows."""

    heading: str
    before: str
    head: list[str]
    rows: list[list[str]]


def said_by_the_code(name: str) -> str:
    """What a criterion is, as Markdown, by its description and docstring.

    Raises:
        CalibrationError: there is no such criterion.
    """
    criterion = describe(name)
    doc = inspect.getdoc(criterion.function) or ""
    sections = {found[1]: textwrap.dedent(found[2]) for found in SECTION.finditer(doc)}
    summary, _, details = SECTION.sub("", doc).strip().partition("\n")
    needs = "nothing but the weights" if criterion.needs == "nothing" else criterion.needs
    compares = "yes" if criterion.comparable else "no; `mha.choose` ranks them within each layer"
    facts = (
        f"- Reads: {needs}\n- Scores of different layers compare: {compares}\n- On a cluster: {criterion.on_cluster}"
    )
    parts = [escaped(summary), facts, escaped(inspect.cleandoc(details))]
    if criterion.options:
        meaning = {key: text for keys, text in _entries(sections.get("Args", "")) for key in keys.split(", ")}
        options = [[f"`{key}`", f"`{value!r}`", meaning.get(key, "")] for key, value in criterion.options.items()]
        parts += ["**Options**", _table(["option", "default", "what it does"], options)]
    if "Raises" in sections:
        parts += ["**Refuses**, by `mha.CalibrationError`: " + _entries(sections["Raises"])[0][1]]
    return "\n\n".join(part for part in parts if part)


def said_by_the_measurements(name: str, page: str) -> str:
    """What the tables of `page`, the text of docs/importance.md, say of a criterion, as Markdown.

    Each table becomes one that stands upright, so that it can be read on a phone: a column for each way in which the
    criterion was used (as it is, in rounds, across layers), a row for each measure.
    """
    parts = []
    for table in tables(page):
        rows = [row for row in table.rows if _is_of(name, row[0])] if table.head[0] == "criterion" else []
        caption = _caption(table)
        if rows and caption:
            upright = zip(table.head[1:], *(row[1:] for row in rows), strict=True)
            names = [row[0].strip("*") for row in rows]
            heading = table.heading.removeprefix("Results: ").capitalize()
            parts += [f"**{heading}, {caption}**", _table(["", *names], list(upright))]
    return "\n\n".join(parts) or "It has not been measured yet."


def all_criteria() -> str:
    """A list of all criteria, as Markdown, each with a link to its page."""
    lines = []
    for criterion in map(describe, criteria()):
        compares = "compares layers" if criterion.comparable else "does not compare layers"
        about = f"{escaped(criterion.summary)} Reads {criterion.needs}; {compares}."
        lines += [f"- **[{criterion.name}]({criterion.name}.md)**: {about}"]
    return "\n".join(lines)


def tables(page: str) -> Iterator[Table]:
    """Yield the tables of a Markdown page."""
    heading = before = ""
    lines = iter(page.splitlines())
    for line in lines:
        if line.startswith("|"):
            head, rows = _cells(line), []
            for line in lines:
                if not line.startswith("|"):
                    break
                rows.append(_cells(line))
            yield Table(heading, before, head, rows[1:])
        elif line.startswith("## "):
            heading = line[3:]
        elif line:
            before = line


def escaped(text: str) -> str:
    """The text, none of whose characters is markup, but for names between backticks."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_\[\]<>|#~])", r"\\\1", part) for part in parts)


def _caption(table: Table) -> str:
    """What the table is about, in a few words; empty if that is not known."""
    for begin, caption in CAPTIONS.items():
        if table.before.startswith(begin):
            return caption.format(table.before.split("`")[1] if "`" in begin else "")
    return ""


def _is_of(name: str, cell: str) -> bool:
    """Whether the first cell of a row names this criterion, alone or with the way in which it was used."""
    return re.split(r"[+,]", cell.strip("*"))[0] == name


def _entries(section: str) -> list[tuple[str, str]]:
    """The names of a docstring's section with what is said of each, escaped, each on one line."""
    return [(found[1], escaped(" ".join(found[2].split()))) for found in ENTRY.finditer(section)]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
