"""A run as a .zip is read like the directory that it was, and nothing leaves the archive."""

import stat
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from reports.base.errors import ReportError
from reports.read import intake, zips
from reports.read.load import load
from tests.reports.archives import packed
from tests.reports.damaging import CASE, cut_off


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary directories are made."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.mark.parametrize("folder", ["", "2026-11-24-cpu/"])
def test_an_archive_is_read_like_its_directory(full_run, tmp_path, scratch, folder):
    path = packed(full_run, tmp_path / "published.zip", folder)
    run, whole = load(path), load(full_run)
    assert (run.name, run.path) == ("published", path)
    for part in ("cases", "samples", "counts", "skipped_arms", "unfinished", "plans", "scores", "memory", "left_out"):
        pd.testing.assert_frame_equal(getattr(run, part), getattr(whole, part))
    assert [example.layer for example in run.attention] == [example.layer for example in whole.attention]
    assert run.notes == whole.notes
    assert list(scratch.iterdir()) == []


def test_what_macos_adds_is_no_second_run(full_run, tmp_path):
    path = packed(full_run, tmp_path / "run.zip", "run/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/run/._environment.json", "x")
    assert len(load(path).cases) == 22


def test_what_is_wrong_in_an_archive_is_told_by_its_place_in_the_run(write_run, tmp_path):
    path = write_run(change=cut_off)
    (path / CASE).write_text("{")
    run = load(packed(path, tmp_path / "run.zip", "run/"))
    assert run.left_out["what"].tolist() == [CASE]
    assert "cut off in the middle" in run.notes[0]


def test_traces_stay_in_the_archive(full_run, tmp_path, monkeypatch):
    path = packed(full_run, tmp_path / "run.zip")
    size = sum(file.stat().st_size for file in full_run.rglob("*") if file.is_file())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive_:
        archive_.writestr("traces/digits/digits.pt.trace.json", bytes(1_000_000))
    monkeypatch.setattr(intake, "MOST_UNPACKED", size)
    assert len(load(path).cases) == 22
    monkeypatch.setattr(intake, "MOST_UNPACKED", size - 1)
    with pytest.raises(ReportError, match=r"run\.zip: expected at most .* to unpack, got .*; no benchmark"):
        load(path)


def add(name: str, mode: int = 0, content: str = "{}"):
    def change(path: Path) -> None:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(entry, content)

    return change


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add("../outside.json"), r"expected entries that stay inside, got '\.\./outside\.json'"),
        (add("cases/../../outside.json"), r"stay inside, got 'cases/\.\./\.\./outside\.json'"),
        (add("cases\\..\\..\\outside.json"), r"stay inside, got 'cases.*outside\.json'"),
        (add("/outside.json"), r"stay inside, got '/outside\.json'"),
        (add("C:/outside.json"), r"stay inside, got 'C:/outside\.json'"),
        (
            add("cases/link.json", stat.S_IFLNK | 0o777, "/etc/hostname"),
            r"expected files, got the link 'cases/link\.js",
        ),
        (add("cases/pipe.json", stat.S_IFIFO | 0o666, ""), r"expected files, got the device or pipe 'cases/pipe\.js"),
        (add("plans.csv"), r"expected every entry once, got 'plans\.csv' twice"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-9000]),
            r"(found none, or it is cut off|no whole \.zip archive); give",
        ),
        (lambda path: path.write_text("PK"), r"found a file that is no whole \.zip archive; give the directory"),
    ],
)
def test_archives_that_are_refused(full_run, tmp_path, scratch, change, message):
    path = packed(full_run, tmp_path / "run.zip")
    change(path)
    with pytest.raises(ReportError, match=rf"run\.zip: .*{message}"):
        load(path)
    assert list(scratch.iterdir()) == []
    assert not list(tmp_path.rglob("outside.json"))


def test_too_many_entries(full_run, tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "MOST_ENTRIES", 10)
    with pytest.raises(ReportError, match=r"run\.zip: expected at most 10 entries, got \d\d; no benchmark"):
        load(packed(full_run, tmp_path / "run.zip"))


def test_a_damaged_entry(full_run, tmp_path):
    path = packed(full_run, tmp_path / "run.zip")
    content = path.read_bytes()
    spot = content.index(b'"samples": [')
    path.write_bytes(content[:spot] + b"!" + content[spot + 1 :])
    with pytest.raises(ReportError, match=r"run\.zip: expected a whole \.zip archive .*\(Bad CRC-32 for file 'cases/"):
        load(path)


def test_an_archive_without_a_run(full_run, minimal_run, tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("a/b/environment.json", "{}")
    with pytest.raises(ReportError, match=r"empty\.zip: expected one run directory .* in the archive, found none"):
        load(tmp_path / "empty.zip")
    path = packed(full_run, tmp_path / "two.zip", "one/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(minimal_run / "environment.json", "two/environment.json")
    with pytest.raises(ReportError, match=r"two\.zip: .*found 2 folders with one; give"):
        load(path)


def test_errors_name_the_archive(write_run, tmp_path, scratch):
    path = write_run(change=lambda run: run.environment.update(schema=2))
    zipped = packed(path, tmp_path / "run.zip")
    with pytest.raises(ReportError) as caught:
        load(zipped)
    assert str(caught.value).startswith(f"{zipped}/environment.json: expected schema 1, got 2")
    assert str(scratch) not in str(caught.value)
