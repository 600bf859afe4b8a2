"""What is published: links lead somewhere, and the pages say what the runs beside them hold."""

import hashlib
import json
from pathlib import Path
from urllib.parse import unquote

import pytest

import reports
from reports.read.load import load
from reports.site.build import MANIFEST
from tests.reports.browser import read

PUBLISHED = Path(reports.__file__).parent / "published"
HASHES = json.loads((PUBLISHED / MANIFEST).read_text())["files"]
LISTED = {PUBLISHED / name for name in HASHES}
PAGES = sorted(file for file in LISTED if file.suffix == ".html")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(PUBLISHED).as_posix())
def test_links_lead_somewhere(path):
    page = read(path)
    links = [*(link["href"] for link in page.all("a")), *(image["src"] for image in page.all("img"))]
    files = {unquote(link.partition("#")[0]) for link in links} - {""}
    assert len(files) > 1 or "have no measurement in common" in page.text()
    assert {file for file in files if not (path.parent / file).is_file()} == set()


@pytest.mark.parametrize("archive", sorted(PUBLISHED.glob("runs/*/*.zip")), ids=lambda path: path.stem)
def test_a_page_is_about_the_run_beside_it(archive):
    text = read(archive.parent / "index.html").text()
    assert archive.stem in text
    if not {"importance", "runtimes"} & {*archive.stem.split("-")}:
        run = load(archive)
        assert run.left_out.empty
        assert f"{len(run.cases)} cases, {len(run.samples):,} samples" in text
        assert str(run.environment["revision"]) in text


def test_the_list_of_files_is_what_is_there():
    assert {file for file in LISTED if not file.is_file()} == set()
    there = {file for folder in ("runs", "compare", "gallery") for file in (PUBLISHED / folder).rglob("*")}
    assert {file for file in there if file.is_file()} <= LISTED
    found = {name: [hashlib.sha256((PUBLISHED / name).read_bytes()).hexdigest()] for name in HASHES}
    assert found == HASHES  # or the next report would take them for files of ours
