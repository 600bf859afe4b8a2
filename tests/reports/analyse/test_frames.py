"""Frames hold the planted numbers: joins by shape, paired speedups, draws."""

import numpy as np
import pandas as pd
import pytest

from reports.analyse import frames
from reports.figures import latency_heads
from reports.read.load import load
from tests.reports.synthetic import DENSE_SECONDS, paired

MEDIAN_DRIFT = 2.0  # of 1, 1.2 … 3


def row(table, **where):
    found = table[np.logical_and.reduce([table[name] == value for name, value in where.items()])]
    assert len(found) == 1
    return found.iloc[0]


@pytest.fixture(scope="module")
def run(full_run):
    return load(full_run)


@pytest.fixture(scope="module")
def table(run):
    tradeoff, small = frames.tradeoffs(run, "digits")
    assert (tradeoff.batch, tradeoff.setting) == (2, frames.Setting.of("cpu", seq_len=7))
    assert (small.batch, small.setting) == (1, tradeoff.setting)
    assert row(small.table, criterion="taylor", kept_fraction=0.5)["speedup"] == pytest.approx(1.0)
    return tradeoff.table


def test_speedups_are_paired_though_both_arms_drift(table):
    for kept, speedup in ((0.5, 2.0), (0.25, 4.0)):
        plan = row(table, criterion="taylor", kept_fraction=kept)
        assert tuple(plan[["speedup", "speedup_low", "speedup_high"]]) == pytest.approx((speedup,) * 3)
        assert plan["pruned"] == pytest.approx(2 * DENSE_SECONDS * MEDIAN_DRIFT / speedup)
        assert plan["pruned_low"] < plan["pruned"] < plan["pruned_high"]


def test_a_plan_gets_the_latency_of_the_case_that_timed_its_shape(table):
    for kept in (0.5, 0.25):
        magnitude, taylor = (row(table, criterion=name, kept_fraction=kept) for name in ("magnitude", "taylor"))
        assert magnitude["pruned"] == taylor["pruned"]
        assert magnitude["speedup"] == taylor["speedup"]
        assert magnitude["value"] == pytest.approx(0.87 if kept == 0.5 else 0.67)


def test_draws_become_their_mean_and_range_with_the_one_latency_timed(table):
    random = row(table, criterion="random")
    assert random["draws"] == 21
    assert tuple(random[["value", "low", "high"]]) == pytest.approx((0.6, 0.505, 0.695))
    assert tuple(random[["difference", "difference_low", "difference_high"]]) == pytest.approx((-0.37, -0.465, -0.275))
    assert random["speedup"] == pytest.approx(1.6)


def test_the_dense_model_is_its_own_measure(table):
    dense = row(table, criterion="dense")
    assert tuple(dense[["speedup", "speedup_low", "speedup_high"]]) == (1, 1, 1)
    assert dense["pruned"] == pytest.approx(2 * DENSE_SECONDS * MEDIAN_DRIFT)


def test_the_order_of_rows_and_the_front(table):
    names = [(plan.criterion, plan.kept_fraction) for plan in table.itertuples()]
    assert names == [
        ("dense", 1.0), ("magnitude", 0.5), ("magnitude", 0.25), ("taylor", 0.5), ("taylor", 0.25), ("random", 0.5),
        ("none", 0.0),
    ]  # fmt: skip
    assert table["front"].tolist() == [True, False, False, True, True, False, False]


def test_a_metric_that_is_better_when_lower_turns_the_front(write_run):
    def change(run):
        run.environment["tasks"]["digits"] |= {"metric": "perplexity", "higher_is_better": False}

    run = load(write_run(change=change))
    tradeoff = frames.tradeoffs(run, "digits")[0]
    # magnitude at a quarter is the fastest and has the lowest value: nothing else is left
    assert tradeoff.table.loc[tradeoff.table["front"], ["criterion", "kept_fraction"]].values.tolist() == [
        ["magnitude", 0.25]
    ]
    assert run.metric("digits").text(0.97) == "0.970"


def test_a_shape_that_two_cases_share_counts_once(run):
    cases = frames.cases_of(run, "digits")
    cell = row(frames.latencies(run, cases, ["kept_fraction", "batch"]), kept_fraction=0.5, batch=2)
    assert (cell["shapes"], cell["rounds"]) == (2, 22)  # taylor's, which is magnitude's too, and random's
    assert cell["speedup"] == pytest.approx((2.0 * 1.6) ** 0.5)  # the middle of two, of logarithms


def test_settings_are_never_pooled(write_run):
    def change(run):
        run.case("digits", "taylor", 0.5, 2, paired(0.004, 8.0), case="on-cuda", device="cuda", dtype="float16")

    run = load(write_run(change=change))
    cpu, _, cuda = frames.tradeoffs(run, "digits")
    assert cpu.setting.text == "cpu, float32, 7 tokens"
    assert cuda.setting.text == "cuda, float16, 7 tokens"
    assert row(cpu.table, criterion="taylor", kept_fraction=0.5)["speedup"] == pytest.approx(2.0)
    assert row(cuda.table, criterion="taylor", kept_fraction=0.5)["speedup"] == pytest.approx(8.0)
    assert np.isnan(row(cuda.table, criterion="magnitude", kept_fraction=0.5)["speedup"])


def test_the_nearest_batch_stands_in_for_a_default_that_was_not_timed(write_run):
    run = load(write_run(change=lambda run: run.environment["tasks"]["digits"].update(batch_size=32)))
    assert next(iter(frames.tradeoffs(run, "digits"))).batch == 2


def test_accuracy_without_latency(write_run):
    def change(run):
        for file in (run.path / "cases").glob("digits-*"):
            file.unlink()

    (tradeoff,) = frames.tradeoffs(load(write_run(change=change)), "digits")
    assert tradeoff.setting is None
    assert tradeoff.table["speedup"].isna().all()
    assert not tradeoff.table["front"].any()


def test_latency_without_accuracy(write_run):
    assert frames.tradeoffs(load(write_run(change=lambda run: run.plans.clear())), "digits") == ()


def test_a_machine_that_slows_down_between_cases_does_not_set_latencies_apart(write_run):
    def change(run):
        run.case("digits", "taylor", 0.25, 2, paired(10 * DENSE_SECONDS, 4.0))  # dense takes 5 times as long here

    run = load(write_run(change=change))
    (panel,) = latency_heads.panels(run, "digits")
    dense = row(panel.frame, model="dense", batch=2)["seconds"]
    assert dense == pytest.approx(2 * DENSE_SECONDS * MEDIAN_DRIFT)  # two of three cases
    quarter = row(panel.frame, model="pruned", batch=2, heads_kept=4)
    assert quarter["seconds"] == pytest.approx(dense / 4)
    tradeoff = frames.tradeoffs(run, "digits")[0]
    plan = row(tradeoff.table, criterion="taylor", kept_fraction=0.25)
    assert plan["dense"] == pytest.approx(5 * dense)  # the table has what was measured
    assert plan["pruned"] == pytest.approx(5 * dense / 4)


def test_what_is_measured_as_usual_comes_first():
    ways = [
        ("cpu", "bfloat16", "eager", "warm", "causal"),
        ("cpu", "bfloat16", "eager", "warm", "none"),
        ("cpu", "float32", "compile", "cold", "none"),
        ("cpu", "float32", "eager", "warm", "none"),
    ]
    cases = pd.DataFrame(ways, columns=["device", "dtype", "mode", "cache", "mask"]).assign(machine="own", seq_len=7)
    for grouped in (frames.settings, frames.conditions):
        found = [setting.text.removesuffix(", 7 tokens") for setting, _ in grouped(cases)]
        assert found == [
            "cpu, float32", "cpu, bfloat16", "cpu, bfloat16, causal mask", "cpu, float32, compiled, cold cache",
        ]  # fmt: skip
