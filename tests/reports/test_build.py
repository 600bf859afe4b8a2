"""The report as a whole: the command, the page, the Parquet file, and what stands in its way."""

import ast
import base64
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest

import reports
from reports import page
from reports.__main__ import main
from reports.build import SAMPLES, build
from reports.errors import ReportError
from tests.reports.browser import Page
from tests.reports.synthetic import paired

ROOT = Path(reports.__file__).parent


@pytest.fixture(scope="module")
def built(full_run, tmp_path_factory):
    """A report of the full run, made by the command."""
    output = tmp_path_factory.mktemp("built") / "new" / "report"
    main([str(full_run), "-o", str(output)])
    return output


@pytest.fixture(scope="module")
def html(built):
    return Page((built / "index.html").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("sketched")
def test_the_command_prints_the_page_and_leaves_nothing_else(minimal_run, tmp_path, capsys):
    main([str(minimal_run), "-o", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'index.html'}\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["figures", "index.html", "samples.parquet"]


def test_samples_are_tidy_and_there_once(built):
    frame = pd.read_parquet(built / "samples.parquet")
    assert frame.columns.tolist() == SAMPLES == [
        "case", "task", "criterion", "kept_fraction", "heads_kept", "batch", "seq_len", "device", "dtype", "arm",
        "round", "seconds", "process", "cache", "mode", "phase", "mask",
    ]  # fmt: skip
    assert len(frame) == 18 * 2 * 11
    assert not frame.duplicated(["case", "arm", "process", "round"]).any()
    one = frame[(frame["case"] == "digits-taylor-keep0.25-b2-cpu") & (frame["arm"] == "pruned")].sort_values("round")
    assert one["seconds"].tolist() == [sample["seconds"] for sample in paired(0.024, 4.0) if sample["arm"] == "pruned"]
    about = one.drop(columns=["round", "seconds"]).drop_duplicates()
    assert about.values.tolist() == [
        ["digits-taylor-keep0.25-b2-cpu", "digits", "taylor", 0.25, 4, 2, 7, "cpu", "float32", "pruned",
         0, "warm", "eager", "forward", "none"]
    ]  # fmt: skip
    assert frame.loc[frame["task"] == "attention", "criterion"].isna().all()


def test_every_figure_is_embedded_and_a_file(built, html):
    files = sorted(path.name for path in (built / "figures").iterdir())
    embedded = {base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in html.all("img")}
    assert len(files) == len(embedded) == 15
    assert embedded == {(built / "figures" / name).read_bytes() for name in files}
    assert "digits-attention_maps-0-blocks.0.attention.png" in files
    assert all(image["alt"].endswith(".") for image in html.all("img"))


def test_the_page_needs_nothing_from_elsewhere(built, html):
    for tag, attributes in html.tags:
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    source = (built / "index.html").read_text(encoding="utf-8")
    assert "@import" not in source
    assert "url(" not in source
    assert len(source) < 5_000_000


def test_links_within_the_page_lead_somewhere(html):
    anchors = {attributes.get("id") for _, attributes in html.tags}
    assert {link["href"].removeprefix("#") for link in html.all("a")} <= anchors


def test_the_page_has_the_numbers_of_the_tables(html):
    text = html.text()
    for expected in (
        "96.5 % [95.5 to 97.5] −0.5 points [−1.5 to 0.5] 24.0",
        "2.00×",
        "48.0 2.00×",
        "random (21 draws) 50 % 8 of 16 60.0 % [50.5 to 69.5]",
        "24.0 ms, 2.00× as fast",
        "AMD EPYC",
        "torch 2.13.0, numpy 2.4.6",
        "0f3c2aa, clean",
        "clock governor unknown",
        "25.0 GiB",
        "pytest bench --quick",
        "2 measurements failed",
        "RuntimeError: <b>no</b>",
        "gate would not train",
    ):
        assert expected in text


@pytest.mark.usefixtures("sketched")
def test_text_from_results_cannot_become_markup(write_run, tmp_path):
    evil = "<script>alert('x')</script>"

    def change(run):
        run.environment["cpu"] = evil
        run.environment["tasks"]["digits"]["description"] = evil
        run.task(evil, {f"{evil}$a_b$": 2}, metric=evil)
        run.plan(evil, "dense", 1.0, 0.9, plan="p1")
        run.plan(evil, evil, 0.5, 0.8, plan="p2")
        run.case(evil, evil, 0.5, 2, paired(0.1, 2.0), case="evil", device=evil)
        run.scores += [(evil, evil, f"{evil}$a_b$", head, head, 1.0) for head in range(2)]
        run.json("cases/worse.json", {"schema": 1, "status": "failed", "error": f"</pre>{evil}"})

    html = Page(build([write_run(name="<b>run", change=change)], tmp_path / "out").read_text(encoding="utf-8"))
    assert len(html.all("script")) == 1  # the page's own
    assert html.all("b") == []
    assert f"</pre>{evil}" in html.text()
    assert f"CPU {evil}" in html.text()
    assert all(".." not in path.name for path in (tmp_path / "out" / "figures").iterdir())


@pytest.mark.usefixtures("sketched")
def test_several_runs_have_sections_of_their_own(full_run, minimal_run, tmp_path):
    html = Page(build([full_run, minimal_run], tmp_path / "out").read_text(encoding="utf-8"))
    assert [text for tag, text in html.texts if tag == "h2"] == ["Run full", "Run minimal"]
    ids = [attributes["id"] for _, attributes in html.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    samples = pd.read_parquet(tmp_path / "out" / "samples.parquet")
    assert not samples.duplicated(["case", "arm", "process", "round"]).any()
    assert {case.split("/")[0] for case in samples["case"]} == {"full", "minimal"}
    assert len(html.all("img")) == len(list((tmp_path / "out" / "figures").iterdir())) == 15 + 14


@pytest.mark.usefixtures("sketched")
def test_a_page_that_grows_too_large_links_to_its_figures(minimal_run, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "EMBED_LIMIT", 4_000)
    html = Page(build([minimal_run], tmp_path / "out").read_text(encoding="utf-8"))
    links = [link["href"] for link in html.all("a") if link["href"].startswith("figures/")]
    assert sum(len(image["src"]) for image in html.all("img")) <= 4_000
    assert len(links) + len(html.all("img")) == 14
    assert links
    assert all((tmp_path / "out" / link).is_file() for link in links)


@pytest.mark.usefixtures("told")
def test_an_earlier_report_is_replaced(minimal_run, tmp_path):
    (tmp_path / "index.html").write_text("old")
    (tmp_path / "mine.txt").write_text("not the report's")
    build([minimal_run], tmp_path)
    assert "old" not in Page((tmp_path / "index.html").read_text(encoding="utf-8")).text().split()
    assert (tmp_path / "mine.txt").read_text() == "not the report's"


def test_the_output_is_checked_before_any_run_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ReportError, match=r"file: expected a directory to write the report into, .*; give another with"
    ):
        build([tmp_path / "nowhere"], tmp_path / "file")
    with pytest.raises(ReportError, match=r"file.out: expected a directory .*cannot be made or written \("):
        build([tmp_path / "nowhere"], tmp_path / "file" / "out")


@pytest.mark.parametrize(("name", "what"), [("index.html", "directory"), ("figures", "file")])
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


@pytest.mark.parametrize("moment", ["reading", "drawing"])
def test_a_report_that_fails_leaves_nothing(write_run, tmp_path, monkeypatch, moment):
    path = write_run()
    if moment == "reading":
        (path / "plans.csv").write_text("")
    else:
        monkeypatch.setattr(page.Gallery, "add", Mock(side_effect=ZeroDivisionError))
    with pytest.raises((ReportError, ZeroDivisionError)):
        build([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_run_twice(full_run, tmp_path):
    with pytest.raises(ReportError, match=r"full/\.\./full: this run is named more than once"):
        build([full_run, full_run / ".." / "full"], tmp_path)


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
