"""A page as a reader's browser would see it."""

from html.parser import HTMLParser
from pathlib import Path

from reports.site.build import build

VOID = {"meta", "img", "link", "br", "hr", "input", "source"}


class Page(HTMLParser):
    """What a reader's browser would see of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []  # tag, text directly inside it
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag not in ("style", "script"))


def page_of(run: Path, output: Path) -> Page:
    """The page of one run, from a report that is made of it alone."""
    build([run], output)
    return read(output / "runs" / run.stem / "index.html")


def read(file: Path) -> Page:
    return Page(file.read_text(encoding="utf-8"))
