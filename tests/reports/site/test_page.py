"""What a page says in words and tables: what is missing, what was left out, and how much to trust the numbers."""

import pandas as pd
import pytest

from reports.analyse import tables
from reports.analyse.frames import SAMPLES
from reports.site.build import build
from tests.reports.browser import page_of, read
from tests.reports.synthetic import counted, fill_profile, fill_repaired, paired


@pytest.mark.usefixtures("told")
def test_what_a_run_lacks_is_said(write_run, tmp_path):
    def change(run):
        run.attention, run.scores = {}, []
        for file in (run.path / "cases").glob("attention-*"):
            file.unlink()

    text = page_of(write_run(change=change), tmp_path / "out").text()
    assert "The run has no attention.npz" in text
    assert "Attention before and after pruning needs attention.npz" in text
    assert "The map of importance needs scores.csv" in text
    assert "Nothing of this was measured in this run." in text  # the bare layer


@pytest.mark.usefixtures("told")
def test_few_rounds_and_few_draws_are_called_so(write_run, tmp_path):
    def change(run):
        run.plans = [plan for plan in run.plans if plan["draw"] < 3]
        run.case("digits", "taylor", 0.5, 2, paired(0.01, 2.0, rounds=4))
        run.environment["tasks"]["digits"]["batch_size"] = 16
        run.environment["dirty"] = True

    text = page_of(write_run(change=change), tmp_path / "out").text()
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
    text = page_of(path, tmp_path / "out").text()
    assert "dense at least 0.95 0.97 [0.95 to 0.99] yes" in text
    assert "random half loses 0.03 0.013 [0.01 to 0.02] no" in text


@pytest.mark.usefixtures("told")
def test_percentiles_have_their_numbers_and_a_dash_where_rounds_are_few(write_run, tmp_path):
    def change(run):
        samples = [{"arm": arm, "round": turn, "seconds": (turn + 1) / 1e3}
                   for turn in range(100) for arm in ("dense", "pruned")]  # fmt: skip
        counts = counted((0.001, 0.001), (0.001, 0.001))
        run.case("digits", "taylor", 0.5, 2, samples, ended="time spent", counts=counts)

    html = page_of(write_run(change=change), tmp_path / "out")
    text = html.text()
    # 50.5 ms for 2 examples of 7 tokens; ranks 40 and 61, 84 and 97
    expected = (
        "digits-taylor-keep0.5-b2-cpu pruned 50.5 [40.0 to 61.0] 90.1 [84.0 to 96.0] – 100 39.6 277 3.00 MiB time spent"
    )
    assert expected in text
    assert "Percentiles, throughput and memory of all 8 cases" in [text for tag, text in html.texts if tag == "summary"]


@pytest.mark.usefixtures("told")
def test_of_very_many_cases_some_have_percentiles(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_CASES", 3)
    html = page_of(write_run(), tmp_path / "out")
    titles = [text for tag, text in html.texts if tag == "summary" and text.startswith("Percentiles")]
    assert titles[0] == "Percentiles, throughput and memory of 3 cases"
    assert "Shown are 3 of 8 cases; the data has all." in html.text()


@pytest.mark.usefixtures("told")
def test_what_was_left_out_is_told_apart_from_what_failed(write_run, tmp_path):
    def change(run):
        run.json("cases/large.json", {
            "schema": 1, "case": "large", "status": "out of memory", "error": "Traceback\ntorch.OutOfMemoryError: 9 GiB"
        })  # fmt: skip
        run.json("cases/half.json", {"schema": 1, "case": "half", "status": "skipped", "error": "no float16 here"})
        run.case("digits", "taylor", 0.5, 2, paired(0.01, 2.0), skipped_arms={"torch_pruning": "not installed"})

    text = page_of(write_run(change=change), tmp_path / "out").text()
    assert "2 measurements failed" in text
    assert "half skipped no float16 here large out of memory torch.OutOfMemoryError: 9 GiB" in text
    assert "arm torch_pruning of 1 case skipped not installed" in text
    assert "large (latency)" not in text


@pytest.mark.usefixtures("told")
def test_a_noisy_run_is_marked_before_anything_else(write_run, tmp_path):
    machine = {"checks": [], "noisy": ["Others used 1.5 cores <b>."]}
    noisy = write_run("noisy", change=lambda run: run.environment.update(machine=machine))
    assert "Noisy" not in page_of(write_run("quiet"), tmp_path / "out").text()
    html = page_of(noisy, tmp_path / "out")
    assert [attributes["role"] for attributes in html.all("div") if attributes.get("class") == "noisy"] == ["note"]
    text = html.text()
    assert "noisy noisy digits: 22 cases, 396 samples, 2026-11-23. Noisy machine. The check of the machine" in text
    assert "Others used 1.5 cores <b>." in text


@pytest.mark.usefixtures("told")
def test_ceilings_and_processes_are_said(write_run, tmp_path):
    def change(run):
        run.environment["preset"] = "full"
        for process in (1, 2):
            for criterion, kept in (("taylor", 0.5), ("taylor", 0.25), ("random", 0.5)):
                run.case("digits", criterion, kept, 2, paired(0.02, 2.0), process=process)
            run.case("digits", "none", 0.0, 2, paired(0.02, 8.0), case="digits-none-b2-cpu", process=process)

    text = page_of(write_run(change=change), tmp_path / "out").text()
    assert "cpu float32 matrix multiplication 1.00 TFLOP/s [900 GFLOP/s to 1.10 TFLOP/s]" in text
    assert "copy from memory, read plus written 100 GB/s [90.0 GB/s to 110 GB/s]" in text
    assert "for times over at least 3 processes and the rounds within each" in text
    assert "preset full" in text


@pytest.mark.usefixtures("sketched")
def test_a_profile_alone_has_a_page(write_run, tmp_path):
    def profile(run):
        run.task("digits", {"attention": 2})
        fill_profile(run)

    html = page_of(write_run(fill=profile), tmp_path / "out")
    assert len(html.all("img")) == 2
    assert "Milliseconds of one pass by operator, and what remained" in html.text()
    assert pd.read_parquet(tmp_path / "out" / "samples.parquet").columns.tolist() == SAMPLES


@pytest.mark.usefixtures("told")
def test_the_first_page_leads_with_a_pretrained_model(write_run, tmp_path):
    def change(run):
        run.task("words", {"a": 8}, pretrained=True)
        run.plan("words", "dense", 1.0, 0.9)
        run.plan("words", "taylor", 0.5, 0.5, difference=-0.4)
        run.case("words", "taylor", 0.5, 2, paired(0.1, 3.0))

    toy, real = write_run("toy", fill=fill_repaired), write_run("real", change=change)
    build([toy, real], tmp_path / "out")
    page = read(tmp_path / "out" / "index.html")
    assert "words: with 50 % of the heads" in page.text().partition("What was found")[2][:200]
    assert "runs/real/figures/words-accuracy_latency" in page.all("img")[0]["src"]


@pytest.mark.usefixtures("told")
def test_texts_stand_side_by_side_with_the_first_other_token_marked(write_run, tmp_path):
    page = page_of(write_run(), tmp_path / "out")
    html = (tmp_path / "out" / "runs" / "run" / "index.html").read_text()
    assert "How long greedy text stays that of the dense model" in page.text()
    assert "Say &lt;it&gt;," in html
    assert '<p class="text"> a &lt;b&gt;<mark> e</mark></p>' in html
    assert '<a href="#digits-texts">Greedy text, side by side</a>' in html


@pytest.mark.usefixtures("told")
def test_a_run_without_what_changes_beside_the_mean_has_no_word_of_texts(write_run, tmp_path):
    def change(run):
        run.examples = []
        for name in ("slices.csv", "calibration.csv", "reliability.csv", "texts.csv"):
            del run.tables[name]

    page = page_of(write_run(change=change), tmp_path / "out")
    text = page.text()
    assert "Greedy text" not in text
    assert "Which examples change needs examples.parquet" in text
    assert "The task names no slices of its examples" in text
    assert "The task tells no probabilities of its answers" in text
    assert "could not be used" not in text
