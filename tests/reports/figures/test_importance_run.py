"""The figures of the importance experiments draw, and their sentences have the planted numbers."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from reports.base.errors import ReportError
from reports.draw.style import theme
from reports.figures.importance_run import registry
from reports.importance.__main__ import main
from reports.importance.__main__ import write as draw_all
from reports.read.importance_run import LIKELIHOOD, load
from tests.reports.figures.proof import check_rendered, checked_caption
from tests.reports.synthetic_importance import write

FIGURES = registry()
FEW = ["magnitude", "taylor", "leave_one_out"]


@pytest.fixture
def tables(tmp_path):
    return load(write(tmp_path / "run", FEW))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_and_says_what_it_shows(tables, name):
    panels = list(FIGURES[name].panels(tables))
    assert [panel.slug for panel in panels] == (["small", "digits"] if name in ("curves", "agreement") else [""])
    for panel in panels:
        check_rendered(FIGURES[name], panel.frame)
        checked_caption(FIGURES[name], panel.frame)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "curves",
            "On small, 3 ways to choose heads, from leave_one_out (0.75) to magnitude (-0.20): the number is the share "
            "of the way from random plans (0) to a model that loses nothing (1), over all head counts.",
        ),
        (
            "agreement",
            "Nearest to what leaving a head out does on held-out data is leave_one_out (0.62), farthest magnitude "
            "(-0.80); one half of the held-out data beside the other agrees to 0.97.",
        ),
        (
            "cost",
            "Criteria that no cheaper one beats, with their share of the way from random choices to a model that loses "
            "nothing, its 95 % interval, and the price in readings of the calibration set: taylor (0.20, 0.15–0.25, at "
            "3.2) and leave_one_out (0.75, 0.70–0.80, at 73).",
        ),
        (
            "stability",
            "From 32 examples the correlation with the scores from all of them is, from the most to the least stable "
            "criterion, taylor 0.88 and leave_one_out 0.87.",
        ),
    ],
)
def test_sentences_have_the_planted_numbers(tables, name, sentence):
    assert FIGURES[name].caption(next(iter(FIGURES[name].panels(tables))).frame) == sentence


def test_a_panel_has_its_curve_the_random_band_the_best_subset_and_the_trained_model(tables):
    panel = next(iter(FIGURES["curves"].panels(tables)))
    with theme():
        figure = FIGURES["curves"].draw(panel.frame)
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "leave_one_out"
    random, best, rival, curve = axes.lines
    expected = panel.frame[panel.frame["criterion"] == "leave_one_out"]["value"].tolist()
    assert curve.get_ydata().tolist() == expected
    assert best.get_ydata()[1] > curve.get_ydata()[1] > random.get_ydata()[1]
    assert rival.get_ydata().tolist() == [0.9]
    assert len(axes.collections) == 2  # the band of random plans and the criterion's interval


def test_log_likelihoods_are_drawn_as_perplexities(tmp_path):
    run = write(tmp_path / "run", FEW)
    curves = pd.read_csv(run / "curves.csv")
    curves["metric"] = np.where(curves["task"] == "small", LIKELIHOOD, "accuracy@1 in 128")
    curves.to_csv(run / "curves.csv", index=False)
    perplexity, accuracy = FIGURES["curves"].panels(load(run))
    one = curves.query("task == 'small' and criterion == 'taylor'")
    shown = perplexity.frame.query("criterion == 'taylor'")
    assert shown["value"].tolist() == pytest.approx(np.exp(-one["value"]).tolist())
    assert shown["low"].tolist() == pytest.approx(np.exp(-one["high"]).tolist())
    with theme():
        drawn = FIGURES["curves"].draw(perplexity.frame), FIGURES["curves"].draw(accuracy.frame)
        labels = [figure.get_supylabel() for figure in drawn]
        ticks = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["log", "linear"]
    assert labels == ["perplexity, less is better", "accuracy@1 in 128 (%)"]
    assert not any("$" in tick for tick in ticks)


def test_the_price_has_a_row_for_each_criterion_and_colours_what_no_cheaper_one_beats(tables):
    panel = next(iter(FIGURES["cost"].panels(tables)))
    with theme():
        share, spearman, price = FIGURES["cost"].draw(panel.frame).axes
    names = [label.get_text() for label in share.get_yticklabels()]
    assert names == ["leave_one_out", "taylor", "magnitude"]
    for axes, column in ((share, "share"), (spearman, "spearman"), (price, "readings")):
        points = axes.collections[-1]
        assert points.get_offsets()[:, 0].tolist() == panel.frame[column].tolist()
        colors = points.get_facecolors()
        assert (colors[0] == colors[1]).all()  # taylor and leave_one_out
        assert (colors[0] != colors[2]).any()


def test_a_run_of_planted_models_alone_has_nothing_to_draw_and_says_so(tmp_path, capsys, monkeypatch):
    run = write(tmp_path / "run", FEW)
    for name in ("areas", "stability", "cost", "agreement", "curves"):
        (run / f"{name}.csv").write_text("\n")
    monkeypatch.setattr("sys.argv", ["importance", str(run)])
    assert main() == 0
    assert "nothing to draw" in capsys.readouterr().out


def test_a_run_that_has_only_begun_is_drawn_as_far_as_it_goes(tmp_path):
    run = write(tmp_path / "run", FEW)
    for name in ("areas", "stability", "cost"):
        (run / f"{name}.csv").write_text("\n")
    assert [line.split(": ")[0].rpartition("/")[2] for line in draw_all(run, tmp_path / "figures")] == [
        "curves-small.png", "curves-digits.png", "agreement-small.png", "agreement-digits.png",
    ]  # fmt: skip


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ReportError, match="there is no such table; expected the directory of an importance run"):
        load(tmp_path)
    run = write(tmp_path / "run", FEW)
    (run / "cost.csv").write_text("task,criterion\nsmall,taylor\n")
    with pytest.raises(ReportError, match="missing columns 'forward', 'readings'"):
        load(run)
