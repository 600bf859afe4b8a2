"""What is told beside the mean is what was planted, and nothing is told of values whose meaning is not known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from reports.analyse import changes, texts
from reports.figures import changed_examples, reliability, slices
from reports.read.load import load
from tests.reports.synthetic import fill_repaired

HALF, QUARTER = "digits-taylor-keep0.5-0", "digits-taylor-keep0.25-0"


@pytest.fixture(scope="module")
def run(full_run):
    return load(full_run)


def test_flips_are_counted_either_way(run):
    found = changes.examples(run, "digits").set_index("plan")
    assert list(found.index) == [HALF, QUARTER]
    assert found["flips"].all()
    assert found[["worse", "better"]].values.tolist() == [[7 / 200, 3 / 200], [30 / 200, 6 / 200]]
    assert found["judged"].tolist() == [200, 200]
    exact = binomtest(7, 200).proportion_ci(method="exact")
    assert (found.loc[HALF, "worse_low"], found.loc[HALF, "worse_high"]) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("count", [0, 1, 17, 40])
def test_intervals_of_shares_are_exact(count):
    expected = binomtest(count, 40).proportion_ci(method="exact")
    assert changes.share_interval(count, 40) == pytest.approx((expected.low, expected.high))


def test_where_less_is_better_a_rise_is_worse(write_run):
    def change(run):
        run.task("digits", {"a": 4}, metric="perplexity", higher_is_better=False)
        run.examples = []
        run.example_values("digits-dense", [10.0, 20.0, 30.0, 40.0])
        run.example_values(HALF, [15.0, 20.0000001, 29.0, 80.0])

    row = changes.examples(load(write_run(change=change)), "digits").iloc[0]
    assert not row["flips"]
    assert (row["worse"], row["better"], row["middle"]) == (0.5, 0.25, pytest.approx(-2.5))
    assert row["worst"] == pytest.approx(np.quantile([-5, 0, 1, -40], 0.05))


def test_values_that_may_be_no_metric_tell_nothing(run):
    untold = replace(run, examples=run.examples.assign(told=False))
    assert changes.examples(untold, "digits").empty  # their mean is not the plan's metric
    mean = untold.examples.groupby("plan")["value"].mean()
    known = run.plans.assign(value=run.plans["plan"].map(mean).fillna(run.plans["value"]))
    assert list(changes.examples(replace(untold, plans=known), "digits")["plan"]) == [HALF, QUARTER]


def test_examples_of_another_number_tell_nothing(run):
    fewer = run.examples[(run.examples["plan"] != HALF) | (run.examples["example"] != 7)]
    assert list(changes.examples(replace(run, examples=fewer), "digits")["plan"]) == [QUARTER]


def test_few_plans_are_those_of_the_best_criterion(run):
    told = changes.told_plans(run, "digits", run.plans["plan"])
    assert changes.few(run, "digits", told)["label"].tolist() == ["taylor, 50 % kept", "taylor, 25 % kept"]
    assert told["label"].iloc[0] == "dense"
    assert told["label"].iloc[-1] == "no heads"


def test_repaired_plans_are_called_so(write_run):
    def change(run):
        run.example_values("digits-taylor-keep0.5-compensate-0", [1.0] * 200)
        run.example_values("digits-shrink-keep0.25-shrink-0", [1.0] * 190 + [0.0] * 10)

    run = load(write_run(fill=fill_repaired, change=change))
    told = changes.told_plans(run, "digits", run.examples["plan"])
    assert len(set(told["label"])) == len(told)
    assert {"taylor, raw, 50 % kept", "taylor, repaired, 50 % kept", "shrink, 25 % kept"} <= {*told["label"]}
    (panel,) = changed_examples.panels(run, "digits")
    assert "chosen by taylor and repaired, 0.0 % (0.0 to 1.8) of 200 examples" in changed_examples.caption(panel.frame)
    (table,) = panel.tables
    assert "taylor, repaired" in [row[0].text for row in table.rows]


def test_slices_stand_with_the_worst_first(run):
    (panel,) = slices.panels(run, "digits")
    assert list(dict.fromkeys(panel.frame.table["slice"])) == ["all examples", "odd", "even"]
    assert slices.caption(panel.frame) == (
        "With taylor, 25 % kept, accuracy changes by −1.5 points (−2.5 to −0.5) on all examples and by −40.0 points "
        "(−45.0 to −35.0) on its worst slice, odd (69 examples). In brackets: 95 % intervals; those of all slices of a "
        "plan hold at once."
    )
    (table,) = panel.tables
    assert [[cell.text for cell in row] for row in table.rows][:2] == [
        ["taylor, 50 % kept", "odd", "69", "77.0 %", "97.0 %", "−20.0 points", "worse"],
        ["taylor, 50 % kept", "even", "131", "96.0 %", "97.0 %", "−1.0 points", "open"],
    ]


def test_flips_are_told_in_a_sentence(run):
    (panel,) = changed_examples.panels(run, "digits")
    assert changed_examples.caption(panel.frame) == (
        "With 50 % of the heads kept, chosen by taylor, without repair, 3.5 % (1.4 to 7.1) of 200 examples turn from "
        "right to wrong and 1.5 % (0.3 to 4.3) turn from wrong to right; accuracy changes by −0.5 points. In brackets: "
        "exact 95 % intervals."
    )


def test_calibration_is_told_of_dense_and_pruned(run):
    (panel,) = reliability.panels(run, "digits")
    assert panel.frame.plans == ("dense", "taylor, 50 % kept", "taylor, 25 % kept")
    assert "Dense: calibration error 0.0 % (0.0 to 1.0); taylor, 50 % kept: calibration error 10.0 %" in (
        reliability.caption(panel.frame)
    )
    (table,) = panel.tables
    assert [cell.text for cell in table.rows[0]][:3] == ["dense", "0.0 %", "–"]
    assert [cell.text for cell in table.rows[1]] == [
        *("taylor, 50 % kept", "10.0 %", "+10.0 points", "10.0 %", "+10.0 points", "0.0100", "+0.0100", "800"),
    ]


def test_texts_part_where_the_first_token_differs(run):
    shown = texts.texts(run, "digits")
    first, second = shown.prompts
    assert first.prompt == "Say <it>,"
    assert [(text.label, text.same, text.first, text.rest, text.told) for text in first.texts] == [
        ("dense", " a <b> c\nd", "", "", ""),
        ("taylor, 50 % kept", " a <b>", " e", "", "2 of 4 tokens agree"),
        ("taylor, 25 % kept", "", " <i>", " <b> c", "0 of 4 tokens agree"),
    ]
    assert [text.told for text in second.texts] == ["", "the same", "the same"]
    (table,) = shown.tables
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["taylor, 50 % kept", "1 of 2", "1.5", "1", "2", "4"], ["taylor, 25 % kept", "1 of 2", "0.5", "0", "1", "4"],
    ]  # fmt: skip


def test_texts_without_those_of_the_dense_model_are_not_shown(run):
    others = run.texts[run.texts["plan"] != "digits-dense"]
    assert texts.texts(replace(run, texts=others), "digits") is None
    assert texts.texts(run, "letters") is None


def test_a_long_text_is_cut(run):
    long = run.texts.assign(pieces=json.dumps(["x" * 5000]))
    assert len(texts.texts(replace(run, texts=long), "digits").prompts[0].texts[0].same) == 2001
