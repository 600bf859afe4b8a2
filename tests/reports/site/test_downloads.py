"""What a page offers to take along: the run's own files, nothing beside them, and no cells that are formulas."""

import csv
import zipfile
from io import StringIO

import pandas as pd
import pytest

from reports.base.formulas import harmless, harmless_csv
from reports.read.documented import documented, is_documented
from reports.read.load import load
from reports.site import downloads
from reports.site.build import build
from tests.reports.archives import packed
from tests.reports.damaging import CASE, cut
from tests.reports.synthetic import fill_minimal
from tests.reports.synthetic_importance import write as write_study
from tests.reports.synthetic_runtimes import write as write_runtimes

SECRET = "a secret of the user's"


def names_in(archive) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        return {*opened.namelist()}


def offered(run, tmp_path) -> set[str]:
    (tmp_path / "page").mkdir()
    return names_in(tmp_path / "page" / downloads.packed(run, "run", tmp_path / "page").name)


def strew(run, tmp_path) -> None:
    """Files of the user's among those of the run, some by links."""
    (tmp_path / "elsewhere").mkdir()
    for file in (tmp_path / "elsewhere" / "case.json", tmp_path / "elsewhere" / "secret.csv"):
        file.write_text('{"schema": 1, "status": "ok", "case": "x"}')
    for name in ("id_rsa", "credentials.json", "notes.csv", ".env", "cases/credentials.json", "cases/id_rsa"):
        (run / name).write_text(f'{{"key": "{SECRET}"}}' if name.endswith(".json") else SECRET)
    (run / "cases" / "linked.json").symlink_to(tmp_path / "elsewhere" / "case.json")
    (run / "stability.csv").symlink_to(tmp_path / "elsewhere" / "secret.csv")
    (run / "cases" / "folder.json").mkdir()
    (run / "private").mkdir()
    (run / "private" / "environment.json").write_text(SECRET)


def test_an_archive_has_the_runs_own_files_and_no_others(write_run, full_run, tmp_path):
    run = write_run()
    strew(run, tmp_path)
    (tmp_path / "again").mkdir()
    found = offered(run, tmp_path)
    assert found == {path.relative_to(full_run).as_posix() for path in full_run.rglob("*") if path.is_file()}
    assert len(found) > 30
    assert SECRET.encode() not in b"".join(
        zipfile.ZipFile(tmp_path / "page" / "run.zip").read(name) for name in sorted(found)
    )


def test_a_folder_that_is_a_link_is_not_packed(write_run, tmp_path):
    run = write_run()
    (run / "cases").rename(tmp_path / "elsewhere")
    (run / "cases").symlink_to(tmp_path / "elsewhere")
    found = offered(run, tmp_path)
    assert "plans/digits-gate-keep0.5-0.json" in found
    assert {name for name in found if name.startswith("cases/")} == set()


def test_what_cannot_be_read_is_not_packed(write_run, tmp_path):
    run = write_run()
    cut(run / CASE)
    assert CASE not in offered(run, tmp_path)


@pytest.mark.parametrize("folder", ["", "run/"])
def test_an_archive_of_a_run_is_offered_as_it_is(full_run, tmp_path, folder):
    source = packed(full_run, tmp_path / "source.zip", folder)
    offered(source, tmp_path)
    assert (tmp_path / "page" / "run.zip").read_bytes() == source.read_bytes()


def test_an_archive_that_holds_something_else_is_packed_anew(full_run, tmp_path):
    source = packed(full_run, tmp_path / "source.zip", "run/")
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("run/id_rsa", SECRET)
        archive.writestr("run/cases/credentials.json", f'{{"key": "{SECRET}"}}')
    assert offered(source, tmp_path) == {*documented(full_run)}


@pytest.mark.usefixtures("told")
def test_an_importance_run_offers_its_own_tables(tmp_path):
    run = write_study(tmp_path / "study", ["taylor", "leave_one_out"])
    (run / "environment.json").write_text('{"schema": 1}')
    (run / "passwords.csv").write_text(SECRET)
    (run / "findings.csv").write_text("comparison,value\n=cmd(),-1.5\n")
    build([run], tmp_path / "out")
    page = tmp_path / "out" / "runs" / "study"
    tables = {"agreement.csv", "areas.csv", "cost.csv", "curves.csv", "findings.csv", "stability.csv"}
    assert {file.name for file in (page / "data").iterdir()} == tables
    assert (page / "data" / "findings.csv").read_text() == "comparison,value\n'=cmd(),-1.5\n"
    assert (page / "data" / "curves.csv").read_bytes() == (run / "curves.csv").read_bytes()
    assert names_in(page / "study.zip") == {*tables, "environment.json"}


@pytest.mark.usefixtures("told")
def test_every_timed_call_of_a_run_in_runtimes_is_in_the_archive_alone(tmp_path):
    run = write_runtimes(tmp_path / "deployed")
    (run / "samples.csv").write_text("task,batch,arm,round,seconds\ndigits,32,dense,0,0.01\n")
    build([run], tmp_path / "out")
    page = tmp_path / "out" / "runs" / "deployed"
    assert [file.name for file in (page / "data").iterdir()] == ["runtimes.csv"]
    assert names_in(page / "deployed.zip") == {"environment.json", "runtimes.csv", "samples.csv"}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("environment.json", True), ("cases/a.json", True), ("plans/a+1.json", True), ("cases/a.txt", False),
        ("cases/deep/a.json", False), ("traces/a.json", False), ("benchmarks.json", False), ("a.json", False),
        (".lock", False), ("runtimes.csv", True), ("samples.csv", True), ("cases/samples.csv", False),
    ],
)  # fmt: skip
def test_places_of_a_runs_files(place, expected):
    assert is_documented(place) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("=1+1", "'=1+1"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"), ("-2+3", "'-2+3"), ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"), ("a\r=1", "a\n=1"), ("\n=1", "'\n=1"), ("-", "'-"), ("-1.5", "-1.5"), ("+3e-05", "+3e-05"),
        ("-inf", "-inf"), ("-.5", "-.5"), ("a=1", "a=1"), ("", ""), ("'=1", "'=1"), ("−1.5", "−1.5"),
    ],
)  # fmt: skip
def test_text_that_begins_like_a_formula(cell, expected):
    frame = harmless(pd.DataFrame({"text": [cell], "number": [-1.5], "other": [(1, -2)]}))
    assert frame.to_numpy().tolist() == [[expected, -1.5, (1, -2)]]
    text = StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["a", "b"], [cell, "-1.5"]])
    changed = [*csv.reader(StringIO(harmless_csv(text.getvalue()), newline=""))]
    assert changed == [["a", "b"], [expected, "-1.5"]]


def test_a_table_without_formulas_stays_as_it_is_to_the_byte():
    text = 'a,b\r\n"x",-1\r\n'
    assert harmless_csv(text) == text


@pytest.mark.usefixtures("told")
def test_names_of_a_run_are_no_formulas_in_its_tables(write_run, tmp_path):
    evil = "=HYPERLINK(1)"

    def change(run):
        run.plan("digits", evil, 0.5, 0.9)
        run.scores += [("digits", evil, "-layer", head, -head, 1.0) for head in range(2)]
        run.json("cases/bad.json", {"schema": 1, "status": "failed", "error": "@SUM(A1)"})

    build([path := write_run(fill=fill_minimal, change=change)], tmp_path / "out")
    data = tmp_path / "out" / "runs" / "run" / "data"
    scores = pd.read_csv(data / "scores.csv")
    assert scores["criterion"].tolist()[-1] == f"'{evil}"
    assert scores["layer"].tolist()[-1] == "'-layer"
    assert scores["score"].tolist()[-1] == -1
    assert "'@SUM(A1)" in (data / "unfinished.csv").read_text()
    rows = csv.reader(StringIO((data / "plans.csv").read_text()))
    assert not {cell[:1] for row in rows for cell in row} & {"=", "+", "@"}
    assert pd.read_parquet(data / "scores.parquet")["criterion"].tolist()[-1] == evil
    again = load(tmp_path / "out" / "runs" / "run" / "run.zip")
    assert again.scores["criterion"].tolist() == load(path).scores["criterion"].tolist()
