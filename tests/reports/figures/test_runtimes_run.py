"""The figures of runs of bench.runtimes draw, and their sentences have the planted numbers."""

import pandas as pd
import pytest

from reports.base.errors import ReportError
from reports.draw.style import theme
from reports.figures.runtimes_run import registry, runtimes
from reports.read.runtimes_run import Setting, load
from tests.reports.figures.proof import check_rendered, checked_caption
from tests.reports.layout import faults
from tests.reports.synthetic_runtimes import write

FIGURES = registry()


@pytest.fixture
def table(tmp_path):
    return load(write(tmp_path / "run"))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_and_says_what_it_shows(table, name):
    (panel,) = FIGURES[name].panels(table)
    assert (panel.slug, panel.title) == ("digits-b32-s16", "digits, batch 32 × length 16")
    check_rendered(FIGURES[name], panel.frame)
    checked_caption(FIGURES[name], panel.frame)
    with theme():
        assert faults(FIGURES[name].draw(panel.frame)) == []


def test_the_front_holds_what_no_other_beats(table):
    (setting,) = table.settings()
    assert runtimes.front(setting)[["name", "runtime"]].to_numpy().tolist() == [
        ["pruned to 50 %, int8", "ONNX Runtime"],
        ["pruned to 75 %, int8", "ONNX Runtime"],
        ["dense, int8", "ONNX Runtime"],
        ["dense", "ONNX Runtime"],
    ]
    caption = runtimes.caption(setting)
    assert caption.startswith(
        "Pruning adds speed to int8 weights here: "
        "pruned to 75 %, int8 in ONNX Runtime beside all heads there (1.18× as fast, 1.15–1.20; 88.0 % instead of "
        "89.0 %) and "
        "pruned to 50 %, int8 in ONNX Runtime beside all heads there (1.43× as fast, 1.40–1.46; 85.0 % instead of "
        "89.0 %). The dense"
    )
    assert (
        "The dense model in PyTorch takes 10.0 ms; what no other beats in both is dense in ONNX Runtime (1.25×"
        in caption
    )
    assert "pruned to 50 %, int8 in ONNX Runtime (2.86× as fast, 2.80–2.92; 85.0 %, −5.0 points, 95 %" in caption


def test_a_difference_that_nobody_reads_makes_no_model_better(table):
    (setting,) = table.settings()
    slower = setting.table.query("variant == 'dense' and runtime == 'PyTorch'").assign(value=0.90004, runtime="slow")
    more = pd.concat([setting.table, slower], ignore_index=True)
    assert "slow" not in set(runtimes.front(Setting("digits", setting.metric, 32, 16, more))["runtime"])


def test_it_says_first_where_pruning_is_not_worth_it(table):
    (setting,) = table.settings()
    slow = setting.table.assign(ratio=lambda rows: rows["ratio"].where(rows["variant"] == "dense", 2.0))
    told = runtimes.caption(Setting("digits", setting.metric, 32, 16, slow))
    assert told.startswith("Pruning heads is not worth it here: ")
    unsure = setting.table.assign(own_ratio_high=1.01)
    told = runtimes.caption(Setting("digits", setting.metric, 32, 16, unsure))
    assert told.startswith("Pruning adds no speed that shows to int8 weights here: pruned to 75 %, int8 in ONNX")


def test_what_was_refused_is_listed_and_a_table_that_lacks_a_column_is_not_read(tmp_path, table):
    assert table.missing() == ("digits, dense, in llama.cpp: ExportError: not a Llama",)
    path = tmp_path / "run" / "runtimes.csv"
    pd.read_csv(path).drop(columns="ratio").to_csv(path, index=False)
    with pytest.raises(ReportError, match=r"runtimes\.csv.*'ratio'"):
        load(tmp_path / "run")
    path.unlink()
    with pytest.raises(ReportError, match=r"there is no such table; expected a run of bench\.runtimes"):
        load(tmp_path / "run")
