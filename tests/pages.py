"""The Markdown pages of the repository as a reader follows them: their steps, links and anchors."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted(path.name for path in ROOT.glob("*.md")),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
]
STEP = re.compile(r"^```(\w+)\n(.*?)^```$|((?:^> [^\n]*\n)+)", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(
    r"[+−-]?\d[\d.,]*(?:e[+−-]?\d+)?|the bit"
)  # what is computed to the bit on one machine is not on another


class Step(NamedTuple):
    """A block of a page: its kind ("python", "bash", "toml", "text"; "quote" for a quotation), and what it holds."""

    kind: str
    text: str


class Link(NamedTuple):
    """Where a link or a picture of a page points, as it is written there."""

    page: str
    target: str
    is_image: bool


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def steps(page: str) -> Iterator[Step]:
    """Yield the blocks of a page in order."""
    for kind, block, quote in STEP.findall(text_of(page)):
        yield Step(kind, block) if kind else Step("quote", re.sub(r"^> ", "", quote, flags=re.MULTILINE))


def shape(output: str) -> str:
    """Words of an output without its numbers and however its lines break."""
    return " ".join(NUMBER.sub("#", output).split())


def links(page: str) -> Iterator[Link]:
    """Yield the links and pictures of a page."""
    for token in _tokens(page):
        for child in token.children or []:
            if child.type in ("link_open", "image"):
                target = child.attrGet("href" if child.type == "link_open" else "src")
                yield Link(page, str(target), child.type == "image")


def entries(page: str) -> Iterator[str]:
    """Yield what the tables of contents of a page name, as paths from the page without their ending."""
    for token in _tokens(page):
        if token.type == "fence" and token.info.strip() == "{toctree}":
            for line in token.content.splitlines():
                if line and not line.startswith(":"):
                    yield line.partition("<")[2].rstrip(">") or line


@cache
def anchors(page: str) -> frozenset[str]:
    """The anchors of a page's headings, as the site and the usual hosts of repositories make them."""
    tokens = _tokens(page)
    heads = [tokens[number + 1].children or [] for number, token in enumerate(tokens) if token.type == "heading_open"]
    titles = ["".join(child.content for child in head if child.type in ("text", "code_inline")) for head in heads]
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)


@cache
def _tokens(page: str) -> list:
    return MarkdownIt("commonmark").enable("table").parse(text_of(page))
