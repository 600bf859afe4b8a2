"""Every registered figure draws, and its sentence has the planted numbers."""

from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest

from reports.draw.style import theme
from reports.figures import Panel, registry
from reports.read.load import load
from reports.read.run import GENERATION, LAYER
from tests.reports.figures.proof import checked_caption
from tests.reports.synthetic import attention_arrays

FIGURES = registry()


def panels(run, name: str, task: str = "digits") -> list[Panel]:
    module = FIGURES[name]
    return list(module.panels(run, {"layer": LAYER, "generation": GENERATION}.get(module.ABOUT, task)))


@pytest.fixture(scope="module")
def full(full_run):
    return load(full_run)


@pytest.fixture(scope="module")
def minimal(minimal_run):
    return load(minimal_run)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("which", ["full", "minimal"])
def test_a_figure_draws_and_says_what_it_shows(request, name, which):
    run = request.getfixturevalue(which)
    shown = panels(run, name)
    assert shown
    for panel in shown:
        with theme():
            figure = FIGURES[name].draw(panel.frame)
        data = [axes for axes in figure.axes if axes.has_data()]
        assert data
        for axes in (axes for axes in data if axes.axison and axes.get_label() != "<colorbar>"):
            assert any(one.get_xlabel() for one in axes.get_shared_x_axes().get_siblings(axes))
            assert axes.get_ylabel() or name == "importance" or axes is not data[0]
        assert any(letter.isdigit() for letter in checked_caption(FIGURES[name], panel.frame))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_offers_all_that_the_page_asks_for(name):
    module = FIGURES[name]
    assert module.TITLE
    assert module.ABSENT.endswith(".")
    assert module.ABOUT in ("task", "layer", "any", "generation")


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_drawn_of_nothing(write_run, name):
    def change(run):
        run.plans, run.scores, run.attention = [], [], {}
        run.task("letters", {})
        for file in [*(run.path / "cases").glob("attention-*"), *(run.path / "cases").glob("generation-*")]:
            file.unlink()

    assert panels(load(write_run(change=change)), name, "letters") == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "accuracy_latency",
            "At batch 2 on cpu no pruned plan, none of them repaired, is shown to be level with the dense model, "
            "within 1 point (2 plans may be: 2,003 examples are too few to tell, about 8,100 would); the best, taylor "
            "with 50 % of the heads, reaches 96.5 % (−0.5 points; 95 % interval −1.5 to 0.5) in 24.0 ms, 2.00× as fast "
            "(2.00–2.00); the Pareto front has 3 plans, the dense model among them. At the edge stand those below "
            "75.2 %, 2 choices of heads; the worst, random with 50 % of them, is at 60.0 %.",
        ),
        (
            "kept_accuracy",
            "With 50 % of the heads kept the best is taylor at 96.5 % (95.5 to 97.5), random choices average, of "
            "21 draws, 60.0 % (50.5 to 69.5), the dense model reaches 97.0 % (96.0 to 98.0) and without any head it is "
            "30.0 % (29.0 to 31.0); in brackets 95 % intervals, of several draws the range of 95 % of them.",
        ),
        (
            "speedup_map",
            "The median paired speedup goes from 1.00× (1.00–1.00) with 25 % of the heads at batch 1 to 4.00× "
            "(4.00–4.00) with 25 % of the heads at batch 2; each cell is the median over the 1 to 2 shapes timed "
            "there, 88 rounds in all.",
        ),
        (
            "importance",
            "Most important, and the time it took to find out: head 0 of blocks.0.attention by magnitude (1.50 s) and "
            "head 7 of blocks.0.attention by taylor (1.50 s); rank correlation is -1.00 between magnitude and taylor.",
        ),
        (
            "layer_pruning",
            "With 50 % of its heads the slowest layer (8 heads, batch 3, 64 tokens, dense 1024 ms) takes 0.56 of the "
            "dense time (0.56–0.56); over all 4 sizes it takes 0.56 to 0.56.",
        ),
    ],
)  # fmt: skip
def test_sentences_have_the_planted_numbers(full, name, sentence):
    panel = panels(full, name)[0]
    assert FIGURES[name].caption(panel.frame) == sentence


def test_the_sentence_on_latency_has_both_ends(full):
    (panel,) = panels(full, "latency_heads")
    sentence = FIGURES["latency_heads"].caption(panel.frame)
    assert sentence.startswith("At batch 1 the dense model takes 24.0 ms (")
    assert "; at batch 2 the dense model takes 48.0 ms (" in sentence
    assert "the one with 4 of 16 heads 12.0 ms (" in sentence


def test_the_sentences_on_attention_name_the_kept_heads(full):
    first, second = (FIGURES["attention_maps"].caption(panel.frame) for panel in panels(full, "attention_maps"))
    assert "blocks.0.attention keeps 3 of 8 heads under digits-taylor-keep0.5-0 (1, 4 and 6);" in first
    assert "by 0.25 at most" in first
    assert second == "blocks.1.attention keeps none of its 8 heads under digits-taylor-keep0.5-0."


def test_attention_of_kept_heads_stands_beneath_their_own_dense_map(full):
    first, second = panels(full, "attention_maps")
    for panel, cut in ((first, 5), (second, 8)):
        figure = FIGURES["attention_maps"].draw(panel.frame)
        image = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
        example = panel.frame
        step = (image.shape[1] - 7) // 7  # from one head to the next; a head is seven keys wide
        for head in range(8):
            columns = slice(head * step, head * step + 7)
            np.testing.assert_array_equal(image[:5, columns], example.dense[head])
            if head in example.heads:
                np.testing.assert_array_equal(image[-5:, columns], example.pruned[example.heads.index(head)])
            else:
                assert np.isnan(image[-5:, columns]).all()
        assert [text.get_text() for text in figure.axes[0].texts].count("cut") == cut


def test_more_heads_than_fit_beside_one_another_go_below(write_run):
    def change(run):
        run.attention = attention_arrays("digits", "wide", 11, [0, 9], 3, 19)

    (panel,) = panels(load(write_run(change=change)), "attention_maps")
    with theme():
        figure = FIGURES["attention_maps"].draw(panel.frame)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("cut") == 9
    assert texts.count("dense") == texts.count("pruned") == 3  # four heads in each row of a wide map


def test_a_criterion_has_one_colour_in_all_figures(full):
    colours = []
    for name in ("accuracy_latency", "kept_accuracy"):
        panel = panels(full, name)[0]
        axes = FIGURES[name].draw(panel.frame).axes[0]
        handles, labels = axes.get_legend_handles_labels()
        colours.append({label: handle[0].get_color() for handle, label in zip(handles, labels, strict=True)
                        if label in ("taylor", "magnitude")})  # fmt: skip
    assert colours[0] == colours[1]
    assert len({tuple(colour) for colour in colours[0].values()}) == 2


def test_dollars_and_foreign_scripts_in_names_are_only_text(write_run):
    def change(run):
        run.task("$\\frac$", {"$a_b$": 2}, metric="$^")
        run.plan("$\\frac$", "$x_$", 0.5, 0.8)
        run.scores += [("$\\frac$", "$x_$", "$a_b$", head, head, 1.0) for head in range(2)]
        run.attention = attention_arrays("$\\frac$", "$a_b$", 2, [0], 2, 3)
        run.attention["$\\frac$/$a_b$/keys"] = np.array(["$", "数", "\U0001f5dd"])

    run = load(write_run(change=change))
    for name in ("kept_accuracy", "importance", "attention_maps"):
        (panel,) = FIGURES[name].panels(run, "$\\frac$")
        with theme():
            FIGURES[name].draw(panel.frame).savefig(BytesIO(), dpi=30)


@pytest.mark.parametrize(
    ("half", "expected"),
    [
        (0.001, "the fastest plan that is level with the dense model, within 1 point, taylor with 50 % of the heads"),
        (0.1, "(2 plans may be: 2,003 examples are too few to tell, about 810,000 would); the best, taylor with 50 % "),
    ],
)
def test_a_plan_is_level_with_the_dense_model_within_the_margin_only(write_run, half, expected):
    def change(run):
        for plan in run.plans:
            if plan["criterion"] == "taylor":
                middle = plan["difference"]
                plan.update(difference_low=middle - half, difference_high=middle + half)

    panel = panels(load(write_run(change=change)), "accuracy_latency")[0]
    assert expected in FIGURES["accuracy_latency"].caption(panel.frame)
