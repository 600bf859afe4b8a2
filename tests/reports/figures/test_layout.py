"""No text of a figure covers another or is cut off, however long its names and however many its cases."""

from multiprocessing.reduction import ForkingPickler

import pytest

from reports.draw.style import NARROW, new_figure, theme, title
from reports.figures import MOST_PANELS, Panel, limited, registry
from reports.figures.importance_run import registry as experiments
from reports.read.importance_run import load as load_tables
from reports.read.load import load
from reports.read.run import GENERATION, LAYER
from tests.reports.layout import faults
from tests.reports.stress import fill_stress
from tests.reports.synthetic import RunWriter
from tests.reports.synthetic_importance import write as write_experiment
from tests.thorough import few

FIGURES = registry()
ON_PHONES = ("accuracy_latency", "kept_accuracy")
ARTISTS = 12_000  # of one figure: what takes the time


@pytest.fixture(scope="module")
def runs(full_run, minimal_run, tmp_path_factory):
    stress = RunWriter(tmp_path_factory.mktemp("runs") / "stress")
    fill_stress(stress)
    return {"full": load(full_run), "minimal": load(minimal_run), "stress": load(stress.finish())}


def panels(run, name) -> tuple[Panel, ...]:
    module = FIGURES[name]
    tasks = {"layer": LAYER, "generation": GENERATION}
    return limited(module.panels(run, tasks.get(module.ABOUT, run.tasks[0])), 3)[0]


def drawn(module, panel, heading="", narrow=False):
    with theme(narrow=narrow):
        figure = module.draw(panel.frame)
        title(figure, f"{heading}: {panel.title}")
        return figure, faults(figure)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("which", few(["full", "minimal", "stress"], "minimal", "stress"))  # a browser looks at "full"
def test_no_text_covers_another_or_is_cut_off(runs, name, which):
    shown = panels(runs[which], name)[: 1 if which == "stress" else 3]  # its panels are all alike
    assert shown
    for panel in shown:
        figure, found = drawn(FIGURES[name], panel, FIGURES[name].TITLE)
        assert found == []
        assert len(figure.findobj()) < ARTISTS
        assert max(figure.get_size_inches()) < 30
        assert ForkingPickler.dumps(panel.frame)  # as it is sent to the process that draws it
        assert FIGURES[name].caption(panel.frame).endswith(".")


@pytest.mark.parametrize("name", ON_PHONES)
@pytest.mark.parametrize("which", ["full", "minimal", "stress"])
def test_a_phone_has_room_for_the_main_figures(runs, name, which):
    panel = panels(runs[which], name)[0]
    figure, found = drawn(FIGURES[name], panel, FIGURES[name].TITLE, narrow=True)
    assert figure.get_figwidth() == NARROW
    assert found == []
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    wide, _ = drawn(FIGURES[name], panel)
    beside = wide.axes[0].get_legend()
    assert labels == [text.get_text() for text in beside.get_texts()]
    assert legend.get_texts()[0].get_fontsize() == beside.get_texts()[0].get_fontsize()


@pytest.mark.parametrize("name", experiments())
def test_the_figures_of_the_experiments_have_room_too(tmp_path, name):
    tables = load_tables(write_experiment(tmp_path / "run", ["magnitude", "taylor", "leave_one_out"]))
    for panel in experiments()[name].panels(tables):
        assert drawn(experiments()[name], panel)[1] == []


def test_the_check_finds_what_overlaps_and_what_is_cut_off():
    with theme():
        figure = new_figure(6, 3)
        axes = figure.subplots()
        axes.set(xticks=[0, 1], xlim=(0, 1), yticks=[])
        for place, text in ((0.5, "one"), (0.52, "other"), (0.8, "apart")):
            axes.text(place, 0.5, text)
        figure.text(0.99, 0.9, "beyond")
        axes.set_xticks([0, 1, 7])  # out of view, and so not drawn
        axes.set_xlim(0, 1)
        assert faults(figure) == ["'one' overlaps 'other'", "'beyond' leaves the figure"]


def test_more_panels_than_a_page_can_hold_are_counted():
    several = [Panel(str(place), "", None) for place in range(MOST_PANELS + 3)]
    assert limited(iter(several)) == (tuple(several[:MOST_PANELS]), 3)
    assert limited(iter(several[:2])) == (tuple(several[:2]), 0)
