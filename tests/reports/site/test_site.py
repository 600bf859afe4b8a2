"""The pages of a site together: where links lead, what is beside them, and what text from results can do."""

import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from reports.base import table_cells as cells
from reports.read.load import load
from reports.site.build import build
from tests.reports.browser import page_of, read
from tests.reports.synthetic import fill_minimal, paired


@pytest.fixture(scope="module")
def pages(site):
    return {path: read(path) for path in sorted(site.rglob("*.html"))}


def test_there_is_a_page_for_each_thing(site, pages):
    assert [path.relative_to(site).as_posix() for path in pages] == [
        "compare/full--minimal/index.html", "gallery/index.html", "index.html", "runs/full/index.html",
        "runs/minimal/index.html", "runs/runtimes/index.html", "runs/study/index.html",
    ]  # fmt: skip


def test_links_lead_somewhere(pages):
    anchors = {path: {attributes.get("id") for _, attributes in page.tags} for path, page in pages.items()}
    seen = 0
    for path, page in pages.items():
        for link in page.all("a"):
            file, _, anchor = link["href"].partition("#")
            target = (path.parent / unquote(file)).resolve() if file else path
            assert target.is_file(), (path, link)
            assert not anchor or anchor in anchors[target], (path, link)
            seen += 1
    assert seen > 200


def test_ids_are_there_once(pages):
    for page in pages.values():
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len({*ids}) == len(ids)


def test_pages_need_nothing_from_elsewhere(pages):
    for path, page in pages.items():
        for tag, attributes in page.tags:
            for name in ("src", "href", "srcset", "data", "action"):
                assert not re.match(r"[a-z]+:|//|/", attributes.get(name, "#").removeprefix("data:")), (path, tag)
        source = path.read_text(encoding="utf-8")
        assert "@import" not in source
        assert "url(" not in source


def test_every_figure_is_an_svg_with_a_png_beside_it_and_a_text_instead(pages):
    shown = 0
    for path, page in pages.items():
        for image in page.all("img"):
            svg = path.parent / image["src"]
            assert svg.read_text(encoding="utf-8").startswith("<?xml")
            assert svg.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
            assert image["alt"].endswith(".")
            assert len(image["alt"]) > 40
            assert ", ." not in image["alt"]
            shown += 1
    assert shown > 40


def test_the_main_figure_has_one_for_phones(site, pages):
    page = pages[site / "index.html"]
    (source,) = page.all("source")
    assert (site / source["srcset"]).is_file()
    assert source["srcset"] == "runs/full/figures/digits-accuracy_latency-cpu-float32-s7-b2-narrow.svg"
    assert [image["src"] for image in page.all("img")] == [source["srcset"].replace("-narrow", "")]


def test_a_page_is_at_most_five_megabytes(pages):
    for path, page in pages.items():
        files = {path.parent / image["src"] for image in page.all("img")}
        assert sum(file.stat().st_size for file in (path, *files)) < 5_000_000


def test_data_are_the_tables_of_the_run(site, full_run):
    run, data = load(full_run), site / "runs" / "full" / "data"
    for name in ("plans", "scores", "ceilings", "predictions", "operators", "memory", "counts"):
        expected = getattr(run, name)
        assert len(expected) > 0
        pd.testing.assert_frame_equal(pd.read_parquet(data / f"{name}.parquet"), expected, check_dtype=False)
        pd.testing.assert_frame_equal(
            pd.read_csv(data / f"{name}.csv", keep_default_na=False, na_values=[""]),
            expected, check_dtype=False,
        )  # fmt: skip
    samples = pd.read_csv(data / "samples.csv.gz")
    np.testing.assert_array_equal(samples["seconds"], pd.read_parquet(data / "samples.parquet")["seconds"])
    assert len(samples) == 396


def test_a_report_can_be_drawn_again_from_what_it_offers(site, tmp_path):
    build([site / "runs" / "minimal" / "minimal.zip"], tmp_path, processes=1)
    place = Path("runs", "minimal")
    same = {file.relative_to(site) for file in (site / place).rglob("*") if file.is_file()}
    assert len(same) > 40
    assert {name for name in same if (tmp_path / name).read_bytes() != (site / name).read_bytes()} == set()


def test_the_calls_of_the_gallery_draw_what_they_show(site, pages):
    texts = pages[site / "gallery" / "index.html"].texts
    preamble, *calls = [text for tag, text in texts if tag == "pre"]
    archives = site / "runs"
    for name in ("full", "minimal", "runtimes", "study"):
        preamble = preamble.replace(f"'{name}'", repr(str(archives / name / f"{name}.zip")))
    names = {}
    exec(preamble, names)
    assert len(calls) > 20
    for call in calls:
        exec(call, names)
        assert names["figure"].axes


@pytest.mark.usefixtures("sketched")
def test_text_from_results_cannot_become_markup(write_run, tmp_path):
    evil = "<script>alert('x')</script>"

    def change(run):
        run.environment["cpu"] = evil
        run.environment["commands"] = [f"pytest bench {evil}"]
        run.environment["tasks"]["digits"]["description"] = evil
        run.task(evil, {f"{evil}$a_b$": 2}, metric=evil)
        run.plan(evil, "dense", 1.0, 0.9, plan="p1")
        run.plan(evil, evil, 0.5, 0.8, plan="p2")
        run.case(evil, evil, 0.5, 2, paired(0.1, 2.0), case="evil", device=evil)
        run.scores += [(evil, evil, f"{evil}$a_b$", head, head, 1.0) for head in range(2)]
        run.json("cases/worse.json", {"schema": 1, "status": "failed", "error": f"</pre>{evil}"})
        run.json("cases/foreign.json", {"schema": evil})

    output = tmp_path / "out"
    build(
        [write_run(name='"><b>run', fill=fill_minimal, change=change), write_run(name="other", fill=fill_minimal)],
        output,
    )
    pages = {path.relative_to(output): read(path) for path in output.rglob("*.html")}
    assert len(pages) == 7  # one run has two devices, which are compared
    for html in pages.values():
        assert len(html.all("script")) == 1  # the page's own
        assert html.all("b") == []
        assert not any(name.startswith("on") for _, attributes in html.tags for name in attributes)
    html = pages[Path("runs/b-run/index.html")]
    assert f"</pre>{evil}" in html.text()
    assert f"CPU {evil}" in html.text()
    assert "alert" not in "".join(path.name for path in output.rglob("*") if not re.fullmatch(r"[\w.-]+", path.name))


@pytest.mark.usefixtures("told")
def test_the_page_has_the_numbers_of_the_tables(full_run, tmp_path):
    text = page_of(full_run, tmp_path).text()
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
        "git checkout 0f3c2aa\nnox -s bench -- --quick",
        "2 measurements failed",
        "RuntimeError: <b>no</b>",
        "gate would not train",
        "samples 396 CSV",
    ):
        assert expected in text, expected


@pytest.mark.usefixtures("told")
def test_thousands_of_rows_are_cut_and_it_is_said(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "MOST_ROWS", 40)

    def change(run):
        for number in range(50):
            run.case("digits", "taylor", 0.5, number + 3, paired(0.01, 2.0, rounds=2), case=f"case-{number}")

    text = page_of(write_run(change=change), tmp_path).text()
    assert "The first 40 of 116 rows; the data to download has all." in text
    assert "Of 52 batch sizes 12 have a table and a figure like this; the data has all." in text
