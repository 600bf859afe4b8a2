"""What is too large, or no file at all, is left out with the reason before it is read; the rest is read as ever."""

import io
import json
import os
import re
import socket
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.base.errors import ReportError
from reports.read import arrays, cases, environment, files, intake, zips
from reports.read.files import read_csv, read_json
from reports.read.importance_run import load as load_study
from reports.read.load import load
from reports.read.problems import Problems
from tests.reports.archives import packed
from tests.reports.damaging import CASE, edit, left_out
from tests.reports.synthetic_importance import write as write_study

MIB = 2**20
PLANNED = "plans/digits-gate-keep0.5-0.json"


@contextmanager
def at_most(mebibytes: float):
    """No more memory than this is allocated inside, by Python and numpy."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * MIB
    finally:
        tracemalloc.stop()


def reason_of(run, what: str) -> str:
    reasons = [reason for place, reason in left_out(run) if place == what]
    assert len(reasons) == 1
    return reasons[0]


def put(kind: str, file: Path) -> None:
    """In place of the file a pipe, whose reader waits, a link to what does not end, and the like."""
    content = file.read_bytes()
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(file))  # names of sockets are short
    elif kind == "directory":
        file.mkdir()
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    else:
        elsewhere = file.parents[2] / f"elsewhere-{file.name}"
        elsewhere.write_bytes(content)
        file.symlink_to(elsewhere)


@pytest.mark.parametrize("first", [0, 2])
def test_what_is_no_file_is_left_out(write_run, monkeypatch, first):
    path = write_run()
    monkeypatch.chdir(path)
    names = [CASE, "attention.npz", "plans.csv", "examples.parquet", PLANNED, "scores.csv"]
    kinds = ["pipe", "endless", "link", "socket", "directory"]
    put_there = {name: kinds[(first + place) % len(kinds)] for place, name in enumerate(names)}
    for name, kind in put_there.items():
        put(kind, path / name)
    run = load(path)
    called = {"pipe": "device or pipe", "socket": "device or pipe", "endless": "link"}
    for name, kind in put_there.items():
        assert reason_of(run, name) == (
            f"expected a file, found a {called.get(kind, kind)}; copy the run directory again, with files in place of "
            "links"
        )
    assert len(run.cases) == 21


@pytest.mark.parametrize("folder", ["cases", "plans"])
def test_a_folder_that_is_a_link_is_not_followed(write_run, tmp_path, folder):
    path = write_run()
    (path / folder).rename(tmp_path / "elsewhere")
    (path / folder).symlink_to(tmp_path / "elsewhere")
    run = load(path)
    assert reason_of(run, folder) == (
        "expected a folder, found a link; copy the run directory again, with files in place of links"
    )
    assert len(run.cases) == (0 if folder == "cases" else 22)


def test_a_run_whose_environment_is_a_link_is_refused(write_run, tmp_path):
    path = write_run()
    (path / "environment.json").rename(tmp_path / "elsewhere")
    (path / "environment.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReportError, match=r"environment\.json: expected a file, found a link; copy the run directory"):
        load(path)


@pytest.mark.parametrize("is_packed", [False, True])
def test_files_larger_than_any_are_left_out_unread(write_run, tmp_path, is_packed):
    path, names = write_run(), [CASE, "scores.csv", "attention.npz", "examples.parquet"]
    if is_packed:  # a bomb: of a mebibyte of zeros a kibibyte is left
        names = names[:2]
        for name in names:
            (path / name).unlink()
        path = packed(path, tmp_path / "run.zip")
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, bytes(intake.most(path.parent / name) + 1))
    for name in () if is_packed else names:
        os.truncate(path / name, intake.most(path / name) + 1)  # takes no room
    with at_most(16):
        run = load(path)
    for name in names:
        assert re.match(
            r"expected at most [\d.]+ MiB, got [\d.]+ MiB; no benchmark writes so much", reason_of(run, name)
        )
    assert len(run.cases) == 21


def test_a_file_that_grows_while_it_is_read_is_read_no_further(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "OTHERS", 10)
    monkeypatch.setattr(intake, "_check", lambda *_: None)  # as it was before it grew
    (tmp_path / "file").write_bytes(bytes(1000))
    with pytest.raises(ReportError, match=r"expected at most 10 B, got 1000 B"):
        intake.contents(tmp_path / "file")


def npz(path, *members: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def npy(array: np.ndarray) -> bytes:
    np.lib.format.write_array(file := io.BytesIO(), array, allow_pickle=False)
    return file.getvalue()


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    """An array of which only the header is there."""
    np.lib.format.write_array_header_1_0(file := io.BytesIO(), {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(np.zeros(600)), "expected at most 4.00 KiB up to 'more', got "),
        (npy(np.zeros(400, dtype="i1")), "expected at most 340 more values at 'more', got 400"),
        (header((10**9,), "|V0"), "expected at most 340 more values at 'more', got 1,000,000,000"),
        (header((300,), "<f8"), r"'more': expected \(300,\) values of float64, got 128 bytes; copy the run"),
        (header((-3,), "<f8"), "expected a plain array at 'more'"),
        (header((1,), "|O"), r"expected a plain array at 'more', .*Object arrays cannot be loaded"),
        (b"\x93NUMPY\x07\x00", r"expected a plain array at 'more', .*version"),
        (b"no array", "expected a plain array at 'more'"),
    ],
)
def test_arrays_are_judged_by_their_headers(tmp_path, monkeypatch, content, reason):
    monkeypatch.setattr(arrays, "MOST_VALUES", 400)
    monkeypatch.setattr(arrays, "MOST_ARRAYS", 4096)
    file, problems = tmp_path / "attention.npz", Problems(tmp_path)
    npz(file, ("plan.npy", npy(np.array("a plan"))), ("x.npy", npy(np.zeros(59, dtype="i1"))))
    npz(file, ("more.npy", content), ("last.npy", npy(np.array(3))))
    assert {*arrays.read_arrays(file, problems)} == {"plan", "x", "last"}
    [[what, said]] = problems.frame().values.tolist()
    assert what == "attention.npz"
    assert re.match(reason, said)


def test_an_array_that_is_there_twice(write_run):
    path = write_run()
    with pytest.warns(UserWarning, match="Duplicate name"):
        npz(path / "attention.npz", ("digits/plan.npy", npy(np.array("another"))))
    assert reason_of(load(path), "attention.npz").startswith("expected every entry once, got 'digits/plan.npy' twice")


def test_a_list_of_entries_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "run.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(2000):
            archive.writestr(f"cases/a-name-of-some-length-{number}.json", "")
    monkeypatch.setattr(zips, "MOST_DIRECTORY", 80_000)
    with pytest.raises(ReportError, match=r"run\.zip: expected at most 78\.1 KiB for the list of entries, got"):
        load(path)


def test_an_archive_with_a_password_is_refused(full_run, tmp_path):
    path = packed(full_run, tmp_path / "run.zip")
    content = bytearray(path.read_bytes())
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(start)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(start, place + 1)
    path.write_bytes(content)
    with pytest.raises(ReportError, match=r"run\.zip: expected a whole \.zip archive without a password, .*encrypted"):
        load(path)


def test_more_rows_cells_or_columns_than_a_table_has(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "1,2\n" * 50)
    columns = {"a": "number", "b": "number"}
    assert len(read_csv(path, columns)) == 50
    for name, limit, found in (("rows", 50, 51), ("cells", 101, 102), ("columns", 1, 2)):
        with monkeypatch.context() as inside:
            inside.setattr(files, f"MOST_{name.upper()}", limit)
            with pytest.raises(ReportError, match=rf"table\.csv: expected at most {limit} {name}, got {found}; no ben"):
                read_csv(path, columns)
    path.write_bytes(b"a,b\r" + b"1,2\r" * 50)
    monkeypatch.setattr(files, "MOST_ROWS", 50)
    with pytest.raises(ReportError, match="expected at most 50 rows, got 51"):
        read_csv(path, columns)


def test_millions_of_rows_are_left_out_before_they_become_a_table(tmp_path):
    path = tmp_path / "memory.csv"
    path.write_text("a\n" + "1\n" * intake.MOST_ROWS)
    with (
        at_most(16),
        pytest.raises(ReportError, match="expected at most 1,000,000 rows, got 1,000,001; no benchmark w"),
    ):
        read_csv(path, {"a": "number"})


def test_samples_beyond_the_most_are_left_out_case_by_case(write_run, full_run, monkeypatch):
    whole = load(full_run)
    monkeypatch.setattr(cases, "MOST_SAMPLES", len(whole.samples) - 1)
    run = load(write_run())
    [[what, reason]] = left_out(run)
    assert what.startswith("cases/")
    assert re.match(r"expected at most \d+ samples in all cases, got \d+; no benchmark writes so much", reason)
    assert 0 < len(run.samples) < len(whole.samples)


def test_more_files_than_a_folder_has(write_run, full_run, monkeypatch):
    count = len([*(full_run / "cases").glob("*.json")])
    monkeypatch.setattr(intake, "MOST_FILES", count - 1)
    reason = reason_of(load(write_run()), "cases")
    assert reason.startswith(f"expected at most {count - 1} files, got {count}; no benchmark writes so much")


def test_more_in_a_folder_than_is_read(write_run, full_run, monkeypatch):
    found = sorted((full_run / "cases").glob("*.json"))
    monkeypatch.setattr(cases, "MOST_RECORDS", sum(file.stat().st_size for file in found) - 1)
    reason = reason_of(load(write_run()), f"cases/{found[-1].name}")
    assert re.match(r"expected at most .* KiB in all of cases/, got", reason)


def test_more_tasks_than_a_page_has(write_run, monkeypatch):
    monkeypatch.setattr(environment, "MOST_TASKS", 1)
    run = load(write_run(change=lambda run: run.task("more", {"a": 2})))
    assert run.tasks == ("digits",)
    assert reason_of(run, "environment.json").startswith("expected at most 1 tasks, got 2; no benchmark writes so much")


@pytest.mark.parametrize("depth", [40, 900, 100_000])
def test_lists_within_lists(write_run, depth):
    path = write_run()
    text = (path / CASE).read_text().replace('"shape": ', f'"shape": {"[" * depth}{"]" * depth}, "other": ')
    (path / CASE).write_text(text)
    assert re.match(r"expected lists and objects no deeper than 32|.*recursion", reason_of(load(path), CASE))


def test_lists_as_deep_as_those_of_a_run_are_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": {"b": [{"c": [[[1]]]}]}}))
    assert read_json(tmp_path / "a.json") == {"a": {"b": [{"c": [[[1]]]}]}}


def test_a_table_of_an_importance_run_is_judged_alike(tmp_path):
    run = write_study(tmp_path / "run", ["taylor"])
    (run / "cost.csv").rename(tmp_path / "cost.csv")
    (run / "cost.csv").symlink_to(tmp_path / "cost.csv")
    with pytest.raises(ReportError, match=r"cost\.csv: expected a file, found a link"):
        load_study(run)


def test_what_is_kept_of_a_case_has_no_samples(full_run):
    found = cases.read_cases(full_run / "cases", ["digits"], Problems(full_run))
    assert all("samples" not in document for _, document in found.outcomes)
    pd.testing.assert_frame_equal(found.samples, load(full_run).samples)


def test_an_unknown_field_is_no_hindrance(write_run):
    path = write_run()
    edit(path / CASE, note=["a"] * 1000)
    assert left_out(load(path)) == []
