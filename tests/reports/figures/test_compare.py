"""The figures of two sides draw, have the planted numbers, and name both sides."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from reports.analyse.compare.comparison import compare
from reports.analyse.compare.sides import sides
from reports.draw.style import theme
from reports.figures.compare import registry
from reports.figures.compare.ratios import SHOWN
from reports.read.load import load
from tests.reports.figures.proof import check_rendered, checked_caption
from tests.reports.synthetic import DENSE_SECONDS, RunWriter, fill, fill_minimal, paired

FIGURES = registry()


def make(path, fill, change=None):
    run = RunWriter(path)
    fill(run)
    if change:
        change(run)
    return load(run.finish())


def other(run):
    run.case("digits", "taylor", 0.5, 2, paired(DENSE_SECONDS, 3.0))
    run.layer_case(4, 3, 16, 1.0, paired(0.002, 1.6, arms=("torch", "mha")))
    plan = next(plan for plan in run.plans if plan["plan"] == "digits-taylor-keep0.25-0")
    plan |= {"value": 0.9, "difference": -0.07, "difference_low": -0.08, "difference_high": -0.06, "keep": "[]"}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return compare(*sides([make(folder / "A", fill), make(folder / "B", fill, other)]))


@pytest.fixture(scope="module")
def minimal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return compare(*sides([make(folder / "A", fill_minimal), make(folder / "B", fill_minimal)]))


def drawn(comparison, name):
    panel = next(FIGURES[name].panels(comparison))
    with theme():
        return FIGURES[name].draw(panel.frame), panel.frame


def points(axes):
    """(x, y) of the marks of every error bar, by its label."""
    return {bars.get_label(): np.transpose(bars[0].get_data()) for bars in axes.containers}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("which", ["full", "minimal"])
def test_a_figure_draws_and_says_what_it_shows(request, name, which):
    shown = list(FIGURES[name].panels(request.getfixturevalue(which)))
    assert shown
    for panel in shown:
        check_rendered(FIGURES[name], panel.frame)
        assert any(letter.isdigit() for letter in checked_caption(FIGURES[name], panel.frame))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_drawn_of_nothing(tmp_path, name):
    def letters(run):
        run.task("letters", {"attention": 2})
        run.case("letters", "taylor", 0.5, 2, paired(0.01, 2.0))

    nothing = compare(*sides([make(tmp_path / "A", fill_minimal), make(tmp_path / "B", letters)]))
    assert list(FIGURES[name].panels(nothing)) == []
    assert FIGURES[name].ABSENT.endswith(".")
    assert FIGURES[name].TITLE


def test_speedups_of_one_side_stand_against_the_others_about_the_diagonal(full):
    figure, _ = drawn(full, "speedups")
    (axes,) = figure.axes
    marks = points(axes)
    assert list(marks) == ["bare layer", "llama, decode", "llama, prefill", "digits"]
    off = [tuple(point) for point in np.concatenate(list(marks.values())) if not np.isclose(*point)]
    assert np.array(off) == pytest.approx(np.array([[2.0, 3.0]]))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlabel() == "speedup (dense / pruned) in A"
    assert axes.get_ylabel() == "speedup (dense / pruned) in B"


def test_ratios_have_what_differs_on_top(full):
    figure, frame = drawn(full, "ratios")
    (axes,) = figure.axes
    marks = points(axes)
    assert marks["interval leaves 1 out"] == pytest.approx(np.array([[1.5, 0.0]]))
    assert marks["interval holds 1"][:, 0] == pytest.approx(1.0)
    assert marks["interval holds 1"][:, 1].tolist() == list(range(1, 14))
    assert axes.get_yticklabels()[0].get_text() == "digits, 50 % kept, magnitude and taylor, batch 2"
    assert axes.get_xlabel() == "speedup in B / speedup in A"
    assert FIGURES["ratios"].caption(frame) == (
        "Of 14 speedups in common 1 differs beyond its 95 % interval (less than 1 would by chance, more where a side "
        "has one process); the median ratio "
        "is 1.00."
    )


def test_ratios_that_find_no_room_are_counted(tmp_path):
    def many(factor):
        def change(run):
            for batch in range(10, 60):
                run.case("digits", "taylor", 0.5, batch, paired(0.01, factor if batch < 55 else 2.0))

        return change

    runs = [make(tmp_path / name, fill, many(factor)) for name, factor in (("A", 2.0), ("B", 2.5))]
    figure, frame = drawn(compare(*sides(runs)), "ratios")
    assert len(figure.axes[0].get_yticklabels()) == SHOWN
    sentence = FIGURES["ratios"].caption(frame)
    assert "Of 64 speedups in common 45 differ beyond their 95 % intervals (about 3 would by chance" in sentence
    assert sentence.endswith("; not drawn: 24 more, 5 of them beyond their interval, from 1.00 to 1.25.")


def test_fronts_of_both_are_in_one_figure(full):
    figure, frame = drawn(full, "fronts")
    marks = points(figure.axes[0])
    assert list(marks) == ["A", "B"]
    assert min(abs(marks["B"][:, 0] - 1 / 3)) < 1e-9 < min(abs(marks["A"][:, 0] - 1 / 3))
    assert FIGURES["fronts"].caption(frame) == (
        "In A no pruned plan, none of them repaired, is shown to be level with the dense model, within 1 point (2 "
        "plans may be: 2,003 examples are too few to tell, about 8,100 would), and its front has 3 plans; in B no "
        "pruned plan, none of them repaired, is shown to be level with the dense model, within 1 point (1 plan may"
        " be: 2,003 examples are too few to tell, about 8,100 would), and its front has 3 plans."
    )


def test_accuracies_of_both_are_beside_each_other_for_each_criterion(full):
    figure, frame = drawn(full, "accuracies")
    panels = {axes.get_title(loc="left"): points(axes) for axes in figure.axes if axes.axison}
    assert list(panels) == ["magnitude", "taylor", "random (21 draws)"]
    assert panels["taylor"]["A"][:, 1] == pytest.approx([-0.015, -0.005])
    assert panels["taylor"]["B"][:, 1] == pytest.approx([-0.07, -0.005])
    assert (panels["taylor"]["A"][:, 0] < panels["taylor"]["B"][:, 0]).all()
    assert FIGURES["accuracies"].caption(frame) == (
        "Of 5 choices of heads in common 4 keep the very same heads on both sides, and 4 of these have the same value "
        "to the last digit; farthest apart against dense is taylor with 25 % of the heads: −1.5 points (−2.5 to −0.5) "
        "in A, −7.0 points (−8.0 to −6.0) in B."
    )


def test_the_bare_layer_stands_beside_its_peers_by_their_names(full):
    figure, frame = drawn(full, "peers")
    marks = points(figure.axes[0])["torch.nn.MultiheadAttention"]
    assert sorted(map(tuple, marks.astype(float).round(3).tolist())) == [
        (0.8, 0.625),
        (0.8, 0.8),
        (0.8, 0.8),
        (0.8, 0.8),
    ]
    assert "beside torch.nn.MultiheadAttention: 0.80× (0.80–0.80) in A, 0.62× (0.62–0.62) in B." in FIGURES[
        "peers"
    ].caption(frame)
