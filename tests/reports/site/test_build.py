"""The report as a whole: the command, what lies where, and what stands in its way."""

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
from filelock import FileLock

import reports
from reports.__main__ import main
from reports.analyse.frames import SAMPLES
from reports.base.errors import ReportError
from reports.site import page
from reports.site.build import build
from reports.site.workshop import LOCK
from tests.reports.browser import page_of, read
from tests.reports.synthetic import fill_minimal, paired

ROOT = Path(reports.__file__).parent


@pytest.mark.usefixtures("sketched")
def test_the_command_prints_the_page_and_leaves_nothing_else(minimal_run, tmp_path, capsys):
    main([str(minimal_run), "-o", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'index.html'}\n"
    names = ["gallery", "index.html", "report-files.json", "runs", "samples.parquet"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "out" / "runs" / "minimal").iterdir()) == [
        "data", "figures", "index.html", "minimal.zip"
    ]  # fmt: skip


@pytest.mark.usefixtures("told")
def test_samples_are_tidy_and_there_once(full_run, tmp_path):
    build([full_run], tmp_path)
    frame = pd.read_parquet(tmp_path / "samples.parquet")
    assert frame.columns.tolist() == SAMPLES == [
        "case", "task", "criterion", "kept_fraction", "heads_kept", "batch", "seq_len", "device", "dtype", "arm",
        "round", "seconds", "process", "cache", "mode", "phase", "mask", "machine", "repair",
    ]  # fmt: skip
    assert len(frame) == 18 * 2 * 11
    assert not frame.duplicated(["case", "arm", "process", "round"]).any()
    one = frame[(frame["case"] == "digits-taylor-keep0.25-b2-cpu") & (frame["arm"] == "pruned")].sort_values("round")
    assert one["seconds"].tolist() == [sample["seconds"] for sample in paired(0.024, 4.0) if sample["arm"] == "pruned"]
    about = one.drop(columns=["round", "seconds"]).drop_duplicates()
    assert about.values.tolist() == [
        ["digits-taylor-keep0.25-b2-cpu", "digits", "taylor", 0.25, 4, 2, 7, "cpu", "float32", "pruned",
         0, "warm", "eager", "forward", "none", "own", "none"]
    ]  # fmt: skip
    assert frame.loc[frame["task"] == "attention", "criterion"].isna().all()


def test_several_runs_have_pages_of_their_own(site):
    start = read(site / "index.html")
    links = {link["href"] for link in start.all("a")}
    assert {"runs/full/index.html", "runs/minimal/index.html", "compare/full--minimal/index.html"} <= links
    samples = pd.read_parquet(site / "samples.parquet")
    assert not samples.duplicated(["case", "arm", "process", "round"]).any()
    assert {case.split("/")[0] for case in samples["case"]} == {"full", "minimal"}


@pytest.mark.usefixtures("told")
def test_two_runs_of_one_name_are_told_apart(write_run, tmp_path):
    build([write_run(name, fill=fill_minimal) for name in ("a/run", "b/run", "c/RUN")], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "runs").iterdir()) == ["RUN-3", "run", "run-2"]


@pytest.mark.usefixtures("sketched")
def test_a_page_that_grows_too_large_says_what_it_leaves_out(minimal_run, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "BUDGET", 6_000)
    html = page_of(minimal_run, tmp_path)
    files = {path.name for path in (tmp_path / "runs" / "minimal" / "figures").iterdir()}
    shown = [image["src"].removeprefix("figures/") for image in html.all("img")]
    assert 0 < len(shown) < 5
    assert {*shown} <= files
    assert sum((tmp_path / "runs" / "minimal" / "figures" / name).stat().st_size for name in files) <= 6_000
    left = html.text().count("this figure would make the page larger than 5 MB")
    assert left == len(html.all("figure")) - len(shown) > 5


@pytest.mark.usefixtures("told")
def test_an_earlier_report_is_replaced_and_what_is_not_ours_stays(full_run, minimal_run, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "mine.txt").write_text("not the report's")
    build([full_run, minimal_run], tmp_path)
    build([minimal_run], tmp_path)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["mine", "minimal"]
    assert not (tmp_path / "compare").exists()
    assert (tmp_path / "runs" / "mine" / "mine.txt").read_text() == "not the report's"
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    listed = json.loads((tmp_path / "report-files.json").read_text())["files"]
    assert written - {*listed} == {"report-files.json", "runs/mine/mine.txt"}


@pytest.mark.parametrize("name", ["index.html", "samples.parquet", "report-files.json"])
def test_a_foreign_file_is_refused_before_any_run_is_read(tmp_path, name):
    (tmp_path / name).write_text('{"files": ["notes.txt"]}')
    (tmp_path / "files.txt").write_text("notes.txt\n")
    (tmp_path / "notes.txt").write_text("mine")
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(ReportError, match=rf"{name}: (no report wrote this file|expected the list that)"):
        build([tmp_path / "nowhere"], tmp_path)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("told")
def test_a_list_of_files_that_is_not_the_reports_takes_nothing_away(minimal_run, tmp_path):
    (tmp_path / "files.txt").write_text("notes.txt\n")
    (tmp_path / "notes.txt").write_text("mine")
    build([minimal_run], tmp_path)
    assert (tmp_path / "files.txt").read_text() == "notes.txt\n"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_report_of_an_earlier_version_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "index.html").write_text("old")
    (tmp_path / "files.txt").write_text("index.html\n")
    with pytest.raises(ReportError, match=r"files\.txt tells of a report of an earlier version, which kept no hashes"):
        build([tmp_path / "nowhere"], tmp_path)


@pytest.mark.usefixtures("told")
def test_a_run_that_is_drawn_is_not_taken_away(minimal_run, full_run, tmp_path):
    """The report that is drawn again may hold the only copy of a run, which can't be read any more."""
    build([minimal_run], tmp_path)
    archive = tmp_path / "runs" / "minimal" / "minimal.zip"
    content = archive.read_bytes()
    _, refused = build([archive, tmp_path / "nowhere"], tmp_path)
    assert len(refused) == 1
    assert archive.read_bytes() == content
    with zipfile.ZipFile(archive, "w") as changed:
        changed.writestr("environment.json", '{"schema": 2}')
    content = archive.read_bytes()
    build([archive, full_run], tmp_path)
    assert archive.read_bytes() == content


def test_the_output_is_checked_before_any_run_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ReportError, match=r"file: expected a directory to write the report into, .*; give another with"
    ):
        build([tmp_path / "nowhere"], tmp_path / "file")
    with pytest.raises(ReportError, match=r"file.out: expected a directory .*cannot be made or written \("):
        build([tmp_path / "nowhere"], tmp_path / "file" / "out")


@pytest.mark.parametrize(("name", "what"), [("index.html", "directory"), ("runs", "file")])
def test_something_in_the_way_of_a_file(tmp_path, name, what):
    (tmp_path / name).mkdir() if what == "directory" else (tmp_path / name).write_text("")
    with pytest.raises(ReportError, match=rf"{name}: a {what} is in the way of the report; move it, or give another"):
        build([tmp_path / "nowhere"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_output_that_is_read_only(tmp_path, monkeypatch):
    # not by its mode, which does not bind root, who runs many a container
    monkeypatch.setattr("tempfile.mkdtemp", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(ReportError, match=r"cannot be made or written \(Permission denied\)"):
        build([tmp_path / "nowhere"], tmp_path)


def test_two_at_once_are_not_mixed(tmp_path):
    with FileLock(tmp_path / LOCK), pytest.raises(ReportError, match="another process is writing a report into this"):
        build([tmp_path / "nowhere"], tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != LOCK] == []


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("moment", ["reading", "drawing"])
def test_a_report_that_fails_leaves_nothing(write_run, tmp_path, monkeypatch, moment):
    path = write_run()
    if moment == "reading":
        (path / "environment.json").write_text("{")
    else:
        monkeypatch.setattr("reports.draw.drawing.render", Mock(side_effect=ZeroDivisionError))
    with pytest.raises((ReportError, ZeroDivisionError)):
        build([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("told")
def test_a_run_that_cannot_be_read_is_left_out_beside_one_that_can(full_run, write_run, tmp_path, capsys):
    broken = write_run("broken", change=lambda run: run.environment.update(schema=0))
    main([str(broken), str(full_run), "-o", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert f"left out: {broken / 'environment.json'}: expected schema 1, got 0; use the reports that came" in said.err
    text = read(tmp_path / "out" / "index.html").text()
    assert "Left out. What was named and could not be read: " in text
    assert "environment.json: expected schema 1, got 0; use the reports" in text
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir()] == ["full"]


def test_wrong_input_is_a_usage_error_without_a_traceback(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "reports", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")],
        capture_output=True, text=True, cwd=ROOT.parent, env=os.environ | {"MPLCONFIGDIR": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 2
    assert "error: " in run.stderr
    assert "nowhere: expected a run directory, found nothing" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_reports_meet_the_others_only_through_files():
    sources = list(ROOT.rglob("*.py"))
    found = {
        name.split(".")[0]
        for source in sources
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert len(sources) > 10
    assert "reports" in found
    assert not found & {"mha", "bench", "torch"}
