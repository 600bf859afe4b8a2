"""What stands in a directory already: only what this program wrote there, and nobody changed, is ever touched."""

import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from reports.base.errors import ReportError
from reports.site import delivery
from reports.site.delivery import Delivery
from reports.site.workshop import ABOUT, LOCK, MARK, workshop

LIST = "list.json"


def bring(output: Path, files: dict[str, str], **options) -> None:
    """Deliver files with these contents."""
    spared = options.pop("spared", ())
    with workshop(output) as made:
        for name, content in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text(content)
        Delivery(output, LIST, spared).bring(made, **options)


def tree(directory: Path) -> dict[str, str]:
    """Path -> content of all files, those of links too, without the list."""
    files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in files.items() if name != LIST}


def listed(output: Path) -> set[str]:
    return {*json.loads((output / LIST).read_text())["files"]}


def test_what_was_brought_is_replaced_and_taken_away(tmp_path):
    bring(tmp_path, {"a": "1", "runs/b": "1", "runs/deep/c": "1"})
    (tmp_path / "runs" / "mine").write_text("mine")
    bring(tmp_path, {"a": "2", "d": "2"})
    assert tree(tmp_path) == {"a": "2", "d": "2", "runs/mine": "mine"}
    assert not (tmp_path / "runs" / "deep").exists()
    assert listed(tmp_path) == {"a", "d"}


def test_what_is_added_leaves_what_was_brought(tmp_path):
    bring(tmp_path, {"a": "1", "b": "1"})
    bring(tmp_path, {"b": "2"}, adds=True)
    assert tree(tmp_path) == {"a": "1", "b": "2"}
    bring(tmp_path, {"b": "3"})
    assert tree(tmp_path) == {"b": "3"}


@pytest.mark.parametrize("name", ["a", "runs/a"])
def test_a_foreign_file_is_not_written_over(tmp_path, name):
    bring(tmp_path, {"b": "1"})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(ReportError, match=rf"{name}: no report wrote this file, or it was changed since, and noth"):
        bring(tmp_path, {"b": "2", "runs/a": "2", "a": "2"})
    assert tree(tmp_path) == before


def test_a_file_that_was_changed_since_is_neither_written_over_nor_taken_away(tmp_path):
    bring(tmp_path, {"a": "1", "b": "1"})
    (tmp_path / "a").write_text("edited")
    with pytest.raises(ReportError, match=r"a: no report wrote this file, or it was changed since"):
        bring(tmp_path, {"a": "2"})
    bring(tmp_path, {"c": "2"})
    assert tree(tmp_path) == {"a": "edited", "c": "2"}
    assert listed(tmp_path) == {"c"}


def test_a_file_with_the_same_content_stays_the_readers_own(tmp_path):
    (tmp_path / "a").write_text("1")
    bring(tmp_path, {"a": "1", "b": "1"})
    assert listed(tmp_path) == {"b"}
    bring(tmp_path, {"c": "1"})
    assert tree(tmp_path) == {"a": "1", "c": "1"}


def test_a_file_that_became_what_is_brought_is_no_hindrance(tmp_path):
    bring(tmp_path, {"a": "1", "b": "1"})
    (tmp_path / "a").write_text("2")
    bring(tmp_path, {"a": "2", "b": "2"})
    assert tree(tmp_path) == {"a": "2", "b": "2"}


def test_what_is_spared_stays(tmp_path):
    bring(tmp_path, {"a": "1", "b": "1"})
    spared = {(tmp_path / "a").resolve()}
    with pytest.raises(ReportError, match="a: no report wrote this file"):
        bring(tmp_path, {"a": "2"}, spared=spared)
    bring(tmp_path, {"b": "2"}, spared=spared)
    assert tree(tmp_path) == {"a": "1", "b": "2"}
    assert set(json.loads((tmp_path / LIST).read_text())["files"]) == {"a", "b"}
    bring(tmp_path, {"b": "3"})  # what is on the list and spared no longer goes like anything else
    assert tree(tmp_path) == {"b": "3"}


@pytest.mark.parametrize(
    "document",
    [
        "notes.txt\n",
        json.dumps({"files": {"notes.txt": []}}),
        json.dumps({"format": "files of something else", "files": {}}),
        json.dumps({"format": delivery.FORMAT, "files": ["notes.txt"]}),
    ],
)
def test_a_foreign_list_is_refused(tmp_path, document):
    (tmp_path / LIST).write_text(document)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ReportError, match=r"list\.json: expected (the list that a report keeps|a JSON object)"):
        bring(tmp_path, {"a": "1"})
    assert tree(tmp_path) == {"notes.txt": "mine"}
    assert (tmp_path / LIST).read_text() == document


def test_a_list_that_leads_elsewhere_takes_nothing_away(tmp_path):
    outside, output = tmp_path / "outside", tmp_path / "out"
    outside.write_text("1")
    bring(output, {"a": "1"})
    document = json.loads((output / LIST).read_text())
    (hashes,) = document["files"].values()
    names = ("../outside", str(outside), "..\\outside", "C:/outside", "", ".", LIST)
    document["files"] |= dict.fromkeys(names, hashes) | {"x": None, "y": [[]]}
    (output / LIST).write_text(json.dumps(document))
    bring(output, {"b": "2"})
    assert outside.read_text() == "1"
    assert tree(output) == {"b": "2"}


@pytest.mark.parametrize("place", ["a", "runs", "runs/deep"])
def test_links_are_not_followed_to_write(tmp_path, place):
    outside, output = tmp_path / "outside", tmp_path / "out"
    (outside / "deep").mkdir(parents=True)
    (outside / "a").write_text("mine")
    (output / place).parent.mkdir(parents=True)
    (output / place).symlink_to(outside / "a" if place == "a" else outside)
    with pytest.raises(ReportError, match=rf"{place}: a link is in the way of the report; move it, or give another"):
        bring(output, {"a": "1", "runs/deep/b": "1"})
    assert tree(outside) == {"a": "mine"}
    assert not (output / LIST).exists()


def test_links_are_not_followed_to_take_away(tmp_path):
    outside, output = tmp_path / "outside", tmp_path / "out"
    bring(output, {"runs/a": "1", "b": "1"})
    (output / "runs").rename(outside)
    (output / "runs").symlink_to(outside)
    (output / "b").rename(tmp_path / "b")
    (output / "b").symlink_to(tmp_path / "b")
    bring(output, {"c": "2"})
    assert tree(outside) == {"a": "1"}
    assert (tmp_path / "b").read_text() == "1"
    assert (output / "runs").is_symlink()
    assert (output / "b").is_symlink()


def test_a_list_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / LIST).symlink_to("elsewhere")
    with pytest.raises(ReportError, match=r"list\.json: "):
        bring(tmp_path, {"a": "1"})
    assert (tmp_path / "elsewhere").read_text() == "{}"


def test_something_else_than_a_file_is_in_the_way(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(ReportError, match="a: a device or pipe is in the way of the report"):
        bring(tmp_path, {"a": "1"})


@pytest.mark.parametrize("renames", range(6))
def test_whatever_cuts_it_off_the_next_one_goes_on(tmp_path, monkeypatch, renames):
    """The list, three files, then the list again: of these, as many as said are renamed before the end comes."""
    bring(tmp_path, {"a": "1", "b": "1", "gone": "1"})
    replace = os.replace
    monkeypatch.setattr("os.replace", Mock(wraps=replace, side_effect=_ends_after(renames, replace)))
    if renames < 5:
        with pytest.raises(KeyboardInterrupt):
            bring(tmp_path, {"a": "2", "b": "2", "c": "2"}, last="a")
    else:
        bring(tmp_path, {"a": "2", "b": "2", "c": "2"}, last="a")
    monkeypatch.undo()
    assert tree(tmp_path)["a"] == ("1" if renames < 4 else "2")
    bring(tmp_path, {"a": "3", "d": "3"})
    assert tree(tmp_path) == {"a": "3", "d": "3"}
    assert listed(tmp_path) == {"a", "d"}


def _ends_after(renames, replace):
    done = []

    def rename(source, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        replace(source, target)

    return rename


def test_what_a_killed_process_left_is_taken_away_and_nothing_like_it(tmp_path):
    killed, empty, mine, outside = (tmp_path / name for name in (".report-a", ".report-b", ".report-mine", "outside"))
    for folder in (killed, empty, mine, outside):
        folder.mkdir()
    for folder in (killed, outside):
        (folder / MARK).write_text(ABOUT)
        (folder / "half").write_text("")
    (mine / MARK).write_text("my own")
    (tmp_path / ".report-link").symlink_to(outside)
    with workshop(tmp_path) as made:
        assert sorted(path.name for path in tmp_path.glob(".report-*") if path.name != LOCK) == sorted(
            [".report-link", ".report-mine", made.parent.name]
        )
    assert (outside / "half").exists()
    assert not made.parent.exists()


@pytest.mark.parametrize("kind", ["text", "link", "folder"])
def test_a_foreign_lock_is_refused(tmp_path, kind):
    lock, other = tmp_path / LOCK, tmp_path / "other"
    other.write_text("")
    {"text": lambda: lock.write_text("mine"), "link": lambda: lock.symlink_to(other), "folder": lock.mkdir}[kind]()
    with pytest.raises(ReportError, match=r"\.report\.lock: expected the empty lock of a report, found something else"):
        bring(tmp_path, {"a": "1"})
    assert lock.exists()
    assert not (tmp_path / "a").exists()


def test_an_empty_lock_of_a_killed_process_is_no_hindrance(tmp_path):
    (tmp_path / LOCK).write_text("")
    bring(tmp_path, {"a": "1"})
    assert tree(tmp_path) == {"a": "1"}
