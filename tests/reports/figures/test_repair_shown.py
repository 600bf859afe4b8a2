"""Repaired plans beside raw ones: in one front, told apart, and drawn where a metric spans decades."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from reports.analyse import frames, tables
from reports.draw.style import PAPER, theme
from reports.figures import accuracy_latency, criteria, kept_accuracy
from reports.read.load import load
from tests.reports.synthetic import fill_repaired


@pytest.fixture
def run(write_run):
    return load(write_run(fill=fill_repaired))


def drawn(module, run):
    panel = next(module.panels(run, "digits"))
    with theme():
        return module.draw(panel.frame).axes[0]


def faces(axes):
    handles, labels = axes.get_legend_handles_labels()
    lines = [handle if hasattr(handle, "get_markerfacecolor") else handle[0] for handle in handles]
    return {label: to_hex(line.get_markerfacecolor()) for line, label in zip(lines, labels, strict=True) if line}


@pytest.mark.parametrize("module", [accuracy_latency, kept_accuracy], ids=lambda module: module.__name__)
def test_raw_plans_are_hollow_and_repaired_ones_full_in_one_colour(run, module):
    shown = faces(drawn(module, run))
    assert shown["taylor, raw"] == shown["magnitude, raw"] == PAPER
    assert len({shown["taylor, repaired"], shown["shrink"], PAPER}) == 3
    look = drawn(module, run).get_legend_handles_labels()
    colours = {label: handle[0].get_color() for handle, label in zip(*look, strict=True) if "taylor" in label}
    assert colours["taylor, raw"] == colours["taylor, repaired"]


def test_where_nothing_is_repaired_markers_are_full(full_run):
    shown = faces(drawn(accuracy_latency, load(full_run)))
    assert "taylor" in shown
    assert PAPER not in shown.values()


def test_a_repaired_plan_has_the_latency_of_its_raw_one_and_takes_its_place_on_the_front(run):
    tradeoff = frames.tradeoffs(run, "digits")[0]
    table = tradeoff.table.set_index(["criterion", "repair", "kept_fraction"])
    speedups = {key: table.loc[key, "speedup"] for key in table.index if key[0] in ("taylor", "shrink")}
    assert speedups == pytest.approx({
        ("taylor", "none", 0.5): 2.0, ("taylor", "none", 0.25): 4.0, ("taylor", "compensate", 0.5): 2.0,
        ("taylor", "compensate", 0.25): 4.0, ("shrink", "shrink", 0.25): 3.0,
    })  # fmt: skip
    assert {*table.index[table["front"]]} == {
        ("dense", "none", 1.0), ("taylor", "compensate", 0.5), ("taylor", "compensate", 0.25),
        ("shrink", "shrink", 0.25),
    }  # fmt: skip


def test_the_table_says_what_a_repair_took(run):
    first = next(tables.summaries(run, "digits"))
    assert first.columns[-2:] == ("repair (CPU)", "repair's memory")
    rows = {(row[0].text, row[1].text): [cell.text for cell in row[-2:]] for row in first.rows}
    assert rows["shrink", "25 %"] == rows["taylor, repaired", "50 %"] == ["3.50 s", "3.00 MiB"]
    assert rows["taylor, raw", "50 %"] == ["–", "–"]
    assert "none of the held-out examples" in first.note


def test_an_old_run_has_no_such_columns(full_run):
    run = load(full_run)
    assert set(run.plans["repair"]) == {"none"}
    assert run.plans[["repair_seconds", "repair_bytes"]].isna().all(axis=None)
    assert next(tables.summaries(run, "digits")).columns[-1] == "speedup"
    assert run.left_out.empty


def test_the_sentence_names_what_was_repaired(run):
    sentence = accuracy_latency.caption(next(accuracy_latency.panels(run, "digits")).frame)
    assert "the fastest plan that is level with the dense model, within 1 point, taylor, repaired, with 25 % of" in (
        sentence
    )
    assert sentence.endswith("At the edge stand those below 75.2 %, 2 choices of heads; the worst, random with 50 % of "
                             "them, is at 60.0 %.")  # fmt: skip


def test_perplexities_over_decades_stand_on_a_logarithm_and_the_hopeless_at_its_edge(write_run):
    def change(run):
        run.environment["tasks"]["digits"].update(metric="perplexity", higher_is_better=False, chance=49152.0)
        values = {"dense": 24.0, "none": 50000.0, "taylor": 30.0, "magnitude": 17660.0, "random": 42647.0}
        for plan in run.plans:
            value = values.get(plan["criterion"], 26.0) - 2 * (plan["repair"] == "compensate")
            ends = {"low": 0.9 * value, "high": 1.1 * value, "difference": value - 24.0}
            plan.update(value=value, **ends, difference_low=value - 25.0, difference_high=value - 23.0)

    run = load(write_run(fill=fill_repaired, change=change))
    axes = drawn(accuracy_latency, run)
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert 18 < low < 24
    assert 240 < high < 300
    arrows = [line for line in axes.lines if line.get_label() == "beyond the figure"]
    assert len(arrows) == 1
    edge = [line.get_ydata() for line in axes.lines if np.all(line.get_ydata() == 240.0) and len(line.get_ydata())]
    assert sorted(map(len, edge)) == [1, 2]  # random at a half, magnitude at both
    sentence = accuracy_latency.caption(next(accuracy_latency.panels(run, "digits")).frame)
    assert sentence.endswith("beyond 240, 3 choices of heads; the worst, random with 50 % of them, is at 42647.")
    assert drawn(kept_accuracy, run).get_yscale() == "log"


def test_a_model_without_heads_that_is_hopeless_puts_kept_heads_on_a_logarithm(write_run):
    def change(run):
        run.environment["tasks"]["digits"].update(metric="perplexity", higher_is_better=False, chance=49152.0)
        for plan in run.plans:
            value = {"dense": 24.0, "none": 33000.0}.get(plan["criterion"], 30.0)
            plan.update(value=value, low=0.9 * value, high=1.1 * value, difference=value - 24.0)

    run = load(write_run(fill=fill_repaired, change=change))
    assert drawn(accuracy_latency, run).get_yscale() == "linear"  # it leaves that model out
    assert drawn(kept_accuracy, run).get_yscale() == "log"


def test_criteria_of_perplexities_over_decades_are_compared_with_the_dense_model(write_run):
    def change(run):
        run.environment["tasks"]["digits"].update(metric="perplexity", higher_is_better=False, chance=49152.0)
        for plan in run.plans:
            value = {"dense": 24.0, "taylor": 34.0, "magnitude": 17660.0}.get(plan["criterion"], 42647.0)
            plan.update(value=value, low=value - 1, high=value + 1, difference=value - 24.0)

    (panel,) = criteria.panels(load(write_run(fill=fill_repaired, change=change)), "digits")
    assert (panel.frame.log, panel.frame.reference) == (True, 24.0)
    table = panel.frame.table.set_index("criterion")
    assert table.loc["taylor", ["advantage", "advantage_low", "advantage_high"]].tolist() == [10.0, 9.0, 11.0]
    with theme():
        axes = criteria.draw(panel.frame).axes[0]
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlabel().replace("\n", " ") == "perplexity less the dense model (lower is better)"
    assert "taylor is best at 34.0, +10.0 against the dense model" in criteria.caption(panel.frame)
