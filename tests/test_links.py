"""Every link of the pages leads somewhere, without a network: files and headings are there, sites are known ones."""

import posixpath
from urllib.parse import unquote, urlsplit

import pytest

from reports.figures import registry
from tests.pages import PAGES, ROOT, anchors, entries, links, text_of

SITES = {  # that pages may link to; a new one is added by hand, after a look at it
    "arxiv.org",
    "d2l.ai",
    "keepachangelog.com",
    "proceedings.neurips.cc",
    "semver.org",
    "ui.perfetto.dev",
}
LARGEST = 150_000  # bytes of a picture


def broken(page: str) -> list[str]:
    """What is wrong with the links of a page."""
    wrong = []
    for link in links(page):
        url = urlsplit(link.target)
        if url.scheme or url.netloc:
            if url.scheme != "https" or url.netloc not in SITES or link.is_image:
                wrong.append(f"{link.target}: no https link to a site that is listed")
            continue
        file = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(url.path))) if url.path else page
        if file.startswith("..") or (url.path and not (ROOT / file).exists()):
            wrong.append(f"{link.target}: no such file")
        elif url.fragment and (not file.endswith(".md") or url.fragment not in anchors(file)):
            wrong.append(f"{link.target}: no such heading")
        elif link.is_image and (ROOT / file).stat().st_size > LARGEST:
            wrong.append(f"{link.target}: a picture of more than {LARGEST} bytes")
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_broken_links_are_found(monkeypatch):
    page = (
        "# A `name`, and more\n[a](nowhere.md) [b](#a-name-and-more) [c](#nothing) [d](http://arxiv.org) ![](x.png)\n"
    )
    monkeypatch.setattr("tests.pages.text_of", lambda _: page)
    assert broken("made-up.md") == [
        "nowhere.md: no such file",
        "#nothing: no such heading",
        "http://arxiv.org: no https link to a site that is listed",
        "x.png: no such file",
    ]


def test_every_page_has_one_place_in_the_contents():
    listed = [
        posixpath.normpath(posixpath.join(posixpath.dirname(page), f"{entry}.md"))
        for page in PAGES
        for entry in entries(page)
    ]
    assert sorted(listed) == sorted(set(PAGES) - {"docs/index.md"})


def test_every_figure_of_a_report_is_explained():
    page = text_of("docs/reading-reports.md")
    assert [figure.TITLE for figure in registry().values() if f"\n### {figure.TITLE}\n" not in page] == []
