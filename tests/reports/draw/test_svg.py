"""One SVG for light and dark: every neutral colour has a dark one, and text stays text."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex, to_rgb

from reports.draw import svg
from reports.draw.style import DARK, INK, ON_DARK, ON_LIGHT, PAPER, folded, new_figure, theme
from reports.figures import registry
from reports.figures.importance_run import registry as experiments
from reports.read.importance_run import load as load_tables
from reports.read.load import load
from reports.read.run import GENERATION, LAYER
from tests.reports.synthetic_importance import write as write_experiment

FIGURES = registry()
COLOR = re.compile(r"(?:fill|stroke)(?:: |=\")(#[0-9a-f]{6})")


@pytest.fixture(scope="module")
def run(full_run):
    return load(full_run)


def text_of(module, frame) -> str:
    with theme():
        return svg.text(module.draw(frame))


def unthemed(text: str) -> list[str]:
    """Greys that would look the same on a dark screen."""
    body = text[text.index("</style>") :]
    return sorted({color for color in COLOR.findall(body) if len({*to_rgb(color)}) == 1} - {*DARK, ON_LIGHT, ON_DARK})


@pytest.mark.parametrize("name", FIGURES)
def test_every_grey_of_a_figure_has_a_dark_one_and_text_is_text(run, name):
    module = FIGURES[name]
    task = {"layer": LAYER, "generation": GENERATION}.get(module.ABOUT, "digits")
    text = text_of(module, next(iter(module.panels(run, task))).frame)
    assert unthemed(text) == []
    texts = re.findall(r"<text [^>]*>", text)
    assert len(texts) > 5
    assert [tag for tag in texts if "fill: #" not in tag] == []  # black, which no rule finds
    assert text.count("font-family: 'DejaVu Sans', 'Verdana', sans-serif") == 1  # for all texts
    assert "font-family" not in "".join(texts)
    assert ElementTree.fromstring(text).attrib["viewBox"].startswith("0 0 ")


@pytest.mark.parametrize("name", experiments())
def test_the_figures_of_the_experiments_are_themed_too(tmp_path, name):
    tables = load_tables(write_experiment(tmp_path / "run", ["magnitude", "taylor", "leave_one_out"]))
    assert unthemed(text_of(experiments()[name], next(iter(experiments()[name].panels(tables))).frame)) == []


def test_a_neutral_colour_is_given_a_dark_one_and_the_same_figure_the_same_text():
    def write() -> str:
        with theme():
            figure = new_figure(6, 3)
            axes = figure.subplots()
            axes.plot([1, 2], [3, 4], "o", label="a line")
            axes.set_title("$a_b$ & c")
            return svg.text(figure)

    text = write()
    assert text == write()
    assert "<metadata" not in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert f'[style*="fill: {INK}"], [fill="{INK}"] {{ fill: {DARK[INK]} !important }}' in text
    assert f'[style*="stroke: {PAPER}"], [stroke="{PAPER}"] {{ stroke: {DARK[PAPER]} !important }}' in text
    assert "$a_b$ &amp; c</text>" in text
    assert re.search(r' (d|x|y)="[^"]*\.\d{3}', text) is None


def test_text_that_no_one_drew_is_refused():
    with pytest.raises(ValueError, match="expected the text of an SVG that matplotlib wrote"):
        svg.themed("<html>")


def test_dark_colours_do_not_collide_with_what_must_stay():
    assert {ON_LIGHT, ON_DARK} & {*DARK, *DARK.values()} == set()
    assert len({*DARK.values()}) == len(DARK)
    assert all(to_hex(color) == color for color in (*DARK, *DARK.values(), ON_LIGHT, ON_DARK))


def test_maps_are_written_with_a_pixel_for_each_cell(run):
    for name in ("attention_maps", "attention_overview", "importance"):
        text = text_of(FIGURES[name], next(iter(FIGURES[name].panels(run, "digits"))).frame)
        assert "image-rendering:pixelated" in text
        assert len(text) < 60_000


def test_lines_are_broken_where_they_would_be_too_long():
    with theme():
        assert folded("a b", 5) == "a b"
        lines = folded("twenty words and some more that do not fit on a line of an inch or so", 1.5).split("\n")
    assert 3 < len(lines) < 9
    assert " ".join(lines).startswith("twenty words and")
