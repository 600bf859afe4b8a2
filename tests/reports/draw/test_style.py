"""The palette can be seen on light and dark, and with red-green colour blindness."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from reports.draw.style import (
    DARK,
    DIM,
    GREY,
    INK,
    ON_DARK,
    ON_LIGHT,
    PALETTE,
    PAPER,
    apart,
    looks,
    luminance,
    shortened,
    text_on,
)

STRONG = 4  # colours that are seen on both papers
FIRST = 5
DEFICIENCIES = {  # Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ],
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def contrast(one, other) -> float:
    """WCAG 2.2."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def seen(color, matrix) -> np.ndarray:
    """CIELAB of a colour as it is seen."""
    channels = np.array(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(matrix) @ linear, 0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_luminance_and_contrast_are_those_of_the_definition():
    assert luminance("#ffffff") == pytest.approx(1)
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)


def test_the_first_colours_are_seen_on_both_papers_and_pale_ones_come_last():
    for paper in (PAPER, DARK[PAPER]):
        assert min(contrast(color, paper) for color in PALETTE[:STRONG]) >= 3
    on_light = [contrast(color, PAPER) for color in PALETTE]
    assert on_light[-2:] == sorted(on_light)[:2][::-1]
    assert len(looks([f"criterion {number}" for number in range(9)])) == 9 + 2


@pytest.mark.parametrize("matrix", DEFICIENCIES.values(), ids=DEFICIENCIES)
def test_the_first_colours_are_told_apart_with_red_green_blindness(matrix):
    colors = [seen(color, matrix) for color in PALETTE[:FIRST]]
    distances = [np.linalg.norm(one - other) for one, other in itertools.combinations(colors, 2)]
    assert min(distances) > 10  # two is barely to be seen


def test_ink_and_grey_are_seen_on_the_paper_they_stand_on():
    for color, least in ((INK, 7), (DIM, 4.5), (GREY, 3)):
        assert contrast(color, PAPER) >= least
        assert contrast(DARK[color], DARK[PAPER]) >= least


@pytest.mark.parametrize("cell", ["#fbafe4", "#440154", "#fde725", "#b3b3b3", "#21918c", "#000000", "#ffffff"])
def test_text_on_a_cell_is_in_the_colour_that_stands_out(cell):
    other = {ON_LIGHT: ON_DARK, ON_DARK: ON_LIGHT}[text_on(cell)]
    assert contrast(text_on(cell), cell) >= min(4.5, contrast(other, cell))


def test_ticks_keep_their_distance_and_both_ends():
    assert apart([0, 1, 2, 3, 4, 10], 2) == [0, 2, 4, 10]
    assert apart([0, 9, 10], 2) == [0, 10]
    assert apart([3], 2) == [3]
    assert apart([3, 4], 2) == [3]


def test_a_long_name_keeps_its_ends():
    assert shortened("abcdefghij", 6) == "ab…hij"
    assert shortened("abcdefghij", 10) == "abcdefghij"
