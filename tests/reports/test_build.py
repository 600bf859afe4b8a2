"""The report as a whole: the command, the page, the Parquet file, and what stands in its way."""

import ast
import base64
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
from matplotlib.figure import Figure

import reports
from reports import page
from reports.__main__ import main
from reports.build import SAMPLES, build
from reports.errors import ReportError
from tests.reports.synthetic import counted, fill_profile, paired

ROOT = Path(reports.__file__).parent
VOID = {"meta", "img", "link", "br", "hr", "input"}


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


@pytest.fixture(scope="module")
def built(full_run, tmp_path_factory):
    """A report of the full run, made by the command."""
    output = tmp_path_factory.mktemp("built") / "new" / "report"
    main([str(full_run), "-o", str(output)])
    return output


@pytest.fixture(scope="module")
def html(built):
    return Page((built / "index.html").read_text(encoding="utf-8"))


@pytest.fixture
def sketched(monkeypatch):
    """Figures are drawn, which is quick, and not rendered, which is not."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: Path(path).write_bytes(bytes(1000)))  # noqa: ARG005


@pytest.fixture
def told(monkeypatch):
    """Figures are not drawn at all; only what is said of them is on the page."""
    monkeypatch.setattr(page.Gallery, "add", tell)


def tell(gallery, module, panel, name):  # noqa: ARG001
    return page.Picture(panel.title, module.caption(panel.frame), "figures/none.png", "data:,", 100)


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


@pytest.mark.usefixtures("told")
def test_what_a_run_lacks_is_said(write_run, tmp_path):
    def change(run):
        run.attention, run.scores = {}, []
        for file in (run.path / "cases").glob("attention-*"):
            file.unlink()

    text = Page(build([write_run(change=change)], tmp_path / "out").read_text(encoding="utf-8")).text()
    assert "The run has no attention.npz" in text
    assert "Attention before and after pruning needs attention.npz" in text
    assert "The map of importance needs scores.csv" in text
    assert "The pruned bare layer was not measured in this run." in text


@pytest.mark.usefixtures("told")
def test_few_rounds_and_few_draws_are_called_so(write_run, tmp_path):
    def change(run):
        run.plans = [plan for plan in run.plans if plan["draw"] < 3]
        run.case("digits", "taylor", 0.5, 2, paired(0.01, 2.0, rounds=4))
        run.environment["tasks"]["digits"]["batch_size"] = 16
        run.environment["dirty"] = True

    text = Page(build([write_run(change=change)], tmp_path / "out").read_text(encoding="utf-8")).text()
    assert "Random choices have only 3 draws; 20 are wanted." in text
    assert "rest on only 4 rounds" in text
    assert "The task's own batch size, 16, was not timed; 2 is the nearest that was." in text
    assert "0f3c2aa with uncommitted changes" in text


@pytest.mark.usefixtures("told")
def test_promises_are_shown_kept_or_not(write_run, tmp_path):
    path = write_run()
    (path / "promises.csv").write_text(
        "task,promise,value,low,high,bound,kept\ndigits,dense_at_least,0.9701,0.95,0.99,0.95,True\n"
        "digits,random_half_loses,0.013,0.01,0.02,0.03,False\n"
    )
    text = Page(build([path], tmp_path / "out").read_text(encoding="utf-8")).text()
    assert "dense at least 0.95 0.97 [0.95 to 0.99] yes" in text
    assert "random half loses 0.03 0.013 [0.01 to 0.02] no" in text


@pytest.mark.usefixtures("told")
def test_percentiles_have_their_numbers_and_a_dash_where_rounds_are_few(write_run, tmp_path):
    def change(run):
        samples = [{"arm": arm, "round": turn, "seconds": (turn + 1) / 1e3}
                   for turn in range(100) for arm in ("dense", "pruned")]  # fmt: skip
        counts = counted((0.001, 0.001), (0.001, 0.001))
        run.case("digits", "taylor", 0.5, 2, samples, ended="time spent", counts=counts)

    html = Page(build([write_run(change=change)], tmp_path / "out").read_text(encoding="utf-8"))
    text = html.text()
    # 50.5 ms for 2 examples of 7 tokens; ranks 40 and 61, 84 and 97
    expected = (
        "digits-taylor-keep0.5-b2-cpu pruned 50.5 [40.0 to 61.0] 90.1 [84.0 to 96.0] – 100 39.6 277 3.00 MiB time spent"
    )
    assert expected in text
    assert "Percentiles, throughput and memory of all 8 cases" in [text for tag, text in html.texts if tag == "summary"]


@pytest.mark.usefixtures("told")
def test_what_was_left_out_is_told_apart_from_what_failed(write_run, tmp_path):
    def change(run):
        run.json("cases/large.json", {
            "schema": 1, "case": "large", "status": "out of memory", "error": "Traceback\ntorch.OutOfMemoryError: 9 GiB"
        })  # fmt: skip
        run.json("cases/half.json", {"schema": 1, "case": "half", "status": "skipped", "error": "no float16 here"})
        run.case("digits", "taylor", 0.5, 2, paired(0.01, 2.0), skipped_arms={"torch_pruning": "not installed"})

    text = Page(build([write_run(change=change)], tmp_path / "out").read_text(encoding="utf-8")).text()
    assert "2 measurements failed" in text
    assert "half skipped no float16 here large out of memory torch.OutOfMemoryError: 9 GiB" in text
    assert "arm torch_pruning of 1 case skipped not installed" in text
    assert "large (latency)" not in text


@pytest.mark.usefixtures("told")
def test_a_noisy_run_is_marked_before_anything_else(write_run, tmp_path):
    machine = {"checks": [], "noisy": ["Others used 1.5 cores <b>."]}
    noisy = write_run("noisy", change=lambda run: run.environment.update(machine=machine))
    html = Page(build([write_run("quiet"), noisy], tmp_path / "out").read_text(encoding="utf-8"))
    assert [attributes["role"] for attributes in html.all("div") if attributes.get("class") == "noisy"] == ["note"]
    text = html.text()
    head = text.index("Run noisy")
    assert text[head:].startswith("Run noisy Noisy machine. The check of the machine found this run disturbed")
    assert "Others used 1.5 cores <b>." in text


@pytest.mark.usefixtures("told")
def test_ceilings_and_processes_are_said(write_run, tmp_path):
    def change(run):
        run.environment["preset"] = "full"
        for process in (1, 2):
            for criterion, kept in (("taylor", 0.5), ("taylor", 0.25), ("random", 0.5)):
                run.case("digits", criterion, kept, 2, paired(0.02, 2.0), process=process)
            run.case("digits", "none", 0.0, 2, paired(0.02, 8.0), case="digits-none-b2-cpu", process=process)

    text = Page(build([write_run(change=change)], tmp_path / "out").read_text(encoding="utf-8")).text()
    assert "cpu float32 matrix multiplication 1.00 TFLOP/s [900 GFLOP/s to 1.10 TFLOP/s]" in text
    assert "copy from memory, read plus written 100 GB/s [90.0 GB/s to 110 GB/s]" in text
    assert "for times over at least 3 processes and the rounds within each" in text
    assert "preset full" in text


@pytest.mark.usefixtures("sketched")
def test_a_profile_alone_has_a_page(write_run, tmp_path):
    def profile(run):
        run.task("digits", {"attention": 2})
        fill_profile(run)

    html = Page(build([write_run(fill=profile)], tmp_path / "out").read_text(encoding="utf-8"))
    assert len(html.all("img")) == 2
    assert "Milliseconds of one pass by operator, and what remained" in html.text()
    assert pd.read_parquet(tmp_path / "out" / "samples.parquet").columns.tolist() == SAMPLES


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
