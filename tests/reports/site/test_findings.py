"""What is claimed of a run: planted numbers come back, and what has no interval is not claimed."""

import pytest

from reports.read.load import load
from reports.site.findings import findings
from tests.reports.damaging import edit
from tests.reports.synthetic import fill_minimal, fill_repaired, paired


def test_planted_numbers_come_back_with_their_intervals(full_run):
    texts = {finding.figure: finding.text for finding in findings(load(full_run))}
    assert texts == {
        "accuracy_latency": "digits: with 50 % of the heads, chosen by taylor, without repair, accuracy changes by "
        "−0.5 points (95 % interval −1.5 to 0.5) to 96.5 %, and a forward pass of batch 2 takes 50.0 % (50.0 to 50.0) "
        "of the dense model's time on cpu, float32, 7 tokens. Whether its accuracy is level with the dense model's, "
        "within 1 point, is open: 2,003 examples are too few to tell, about 8,100 would.",
        "kept_accuracy": "digits: which heads stay matters. With 50 % of them, chosen by taylor, without repair, the "
        "model reaches 96.5 % (95.5 to 97.5); with as many at random 60.0 % on average, 95 % of 21 draws within 50.5 "
        "to 69.5.",
        "speedup_map": "digits: what it saves depends on the batch. The same plan runs 1.00× (1.00–1.00) as fast as "
        "the dense model at batch 1, and 2.00× (2.00–2.00) at batch 2.",
        "layer_peers": "The bare layer beside other implementations on the same weights, cpu, float32: over 4 sizes "
        "it takes 0.80 (0.80–0.80) to 0.80 (0.80–0.80) of the time of the fastest of them.",
        "speedup_bounds": "digits: a model without any head takes 12.5 % (12.5 to 12.5) of the dense time at batch 2, "
        "so that no pruning of heads can make it faster than 8.00× (8.00–8.00); with 50 % of them it is 2.00× "
        "(2.00–2.00).",
    }  # fmt: skip


def test_what_chance_does_as_well_is_not_said_to_matter(write_run):
    def change(run):
        for plan in run.plans:
            if plan["criterion"] == "random":
                plan["value"] += 0.3

    texts = [finding.text for finding in findings(load(write_run(change=change)))]
    assert any(text.startswith("digits: whether it matters which heads stay is open. With 50 %") for text in texts)


def test_batches_that_save_alike_are_not_said_to_differ(write_run):
    def change(run):
        for file in (run.path / "cases").glob("digits-taylor-keep0.5-b1-*"):
            edit(file, samples=paired(0.012, 2.0))

    texts = [finding.text for finding in findings(load(write_run(change=change)))]
    assert any("whether what it saves depends on the batch is open. The same plan runs 2.00×" in text for text in texts)


def test_at_most_five_and_each_has_its_figure(full_run):
    found = findings(load(full_run))
    assert 4 <= len(found) <= 5
    assert len({finding.text for finding in found}) == len(found)


def test_a_single_round_is_no_ground_for_a_claim(write_run):
    assert findings(load(write_run(fill=fill_minimal))) == ()


def test_a_lower_value_that_is_better(write_run):
    def change(run):
        run.environment["tasks"]["digits"].update(metric="perplexity", higher_is_better=False)

    text = findings(load(write_run(change=change)))[0].text
    assert text.startswith("digits: without repair, 12 of 16 heads can leave and perplexity is level")  # the lowest


def test_what_can_leave_comes_first_with_what_the_repair_took(write_run):
    first, *others = [finding.text for finding in findings(load(write_run(fill=fill_repaired)))]
    assert first == (
        "digits: with repair, 12 of 16 heads can leave and accuracy is level with the dense model's, within 1 point "
        "(96.6 %, −0.4 points; 95 % interval −0.9 to 0.1), at 4.00× (4.00–4.00) its speed at batch 2 on cpu, float32, "
        "7 tokens; the heads that stay were chosen by taylor and repaired, in 3.50 s of CPU time and 3.00 MiB."
    )
    assert [text for text in others if "changes by" in text] == []  # what fewer heads can do says more
    assert any("chosen by taylor, without repair, the model reaches 96.5 %" in text for text in others)  # beside random


def test_half_of_the_heads_are_priced_where_fewer_do_not_suffice(write_run):
    def change(run):
        run.plans = [plan for plan in run.plans if plan["kept_fraction"] != 0.25]
        run.plan("digits", "taylor", 0.75, 0.97, difference_low=-0.002, difference_high=0.002)
        run.case("digits", "taylor", 0.75, 2, paired(0.024, 1.1))

    first, second, *_ = [finding.text for finding in findings(load(write_run(change=change)))]
    assert first.startswith("digits: without repair, 4 of 16 heads can leave")
    assert first.endswith("; the heads that stay were chosen by taylor.")
    assert second.startswith("digits: with 50 % of the heads, chosen by taylor, without repair, accuracy changes by")


def test_a_pretrained_model_comes_before_one_that_can_spare_more(write_run):
    def change(run):
        run.task("words", {"a": 8}, pretrained=True)
        run.plan("words", "dense", 1.0, 0.9)
        run.plan("words", "taylor", 0.5, 0.5, difference=-0.4)
        run.case("words", "taylor", 0.5, 2, paired(0.1, 3.0))

    assert findings(load(write_run(change=change)))[0].task == "words"


@pytest.mark.parametrize("batches", [1, 2])
def test_batches_are_compared_where_there_are_two(write_run, batches):
    def change(run):
        if batches == 1:
            for file in (run.path / "cases").glob("digits-*-b1-*"):
                file.unlink()

    figures = [finding.figure for finding in findings(load(write_run(change=change)))]
    assert ("speedup_map" in figures) == (batches == 2)


@pytest.mark.parametrize(("value", "first"), [(0.899, "words"), (0.8, "digits")])
def test_the_task_that_can_spare_most_comes_first(write_run, value, first):
    def change(run):
        run.task("words", {"a": 8})
        run.plan("words", "dense", 1.0, 0.9)
        run.plan("words", "taylor", 0.5, value, difference=value - 0.9)
        run.case("words", "taylor", 0.5, 2, paired(0.1, 3.0))

    assert findings(load(write_run(change=change)))[0].task == first


def test_what_is_no_share_is_said_in_times_of_the_dense_model_too(write_run):
    def change(run):
        run.environment["tasks"]["digits"].update(metric="perplexity", higher_is_better=False)
        for plan in run.plans:
            value = 36.0 if plan["criterion"] == "taylor" else 24.0 if plan["criterion"] == "dense" else 240.0
            ends = {"difference_low": value - 25.0, "difference_high": value - 23.0}
            plan.update(value=value, difference=value - 24.0, **ends)

    text = findings(load(write_run(change=change)))[0].text
    assert "perplexity changes by +12.0 (95 % interval 11.0 to 13.0) to 36.0, 1.5 times the dense model's, and" in text
