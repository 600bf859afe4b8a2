"""Figures as SVG for light and for dark screens: neutral colours follow the reader's screen, those of data stay."""

import re
from io import StringIO

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from reports.draw.style import DARK, FONTS

DIGITS = re.compile(r"(\.\d\d)\d+")  # a hundredth of a point is enough, and makes the file half as large
PLACES = re.compile(r' (?:d|x|y)="[^"]*"')
METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)  # says when it was drawn, and by which version
END = "</style>"
FAMILIES = ", ".join([*(f"'{name}'" for name in FONTS), "sans-serif"])
FAMILY = f"font-family: {FAMILIES}; "


def text(figure: Figure) -> str:
    """The figure, drawn within `style.theme()`, as the text of a themed SVG; the same figure gives the same text."""
    file = StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})  # savefig draws everything once more beforehand
    return themed(file.getvalue())


def themed(svg: str) -> str:
    """The text of an SVG that matplotlib wrote, with rules for dark screens, without its date, and with short numbers.

    Dark colours replace neutral ones where the reader's screen is dark; coordinates keep two decimals.

    Raises:
        ValueError: it has no style sheet, so matplotlib didn't write it.
    """
    if END not in svg:
        raise ValueError(f"expected the text of an SVG that matplotlib wrote, with a style sheet; got {svg[:80]!r}")
    svg = METADATA.sub("", svg, count=1).replace(FAMILY, "")  # said once for all texts
    svg = PLACES.sub(lambda place: DIGITS.sub(r"\1", place[0]), svg)
    return svg.replace(END, f"{RULES}{END}", 1)


def _rules() -> str:
    """The style sheet as text: the fonts, and rules that replace neutral colours (DARK) on dark screens.

    The rules hold for colours in inline styles and for those in attributes, as hatches have them.
    """
    dark = "\n".join(
        f'[style*="{what}: {light}"], [{what}="{light}"] {{ {what}: {dark} !important }}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    return f"text {{ font-family: {FAMILIES} }}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


RULES = _rules()
