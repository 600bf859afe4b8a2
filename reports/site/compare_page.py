"""The page that compares two runs, or two devices of one run."""

from dataclasses import dataclass

from reports.analyse.compare.comparison import Comparison, compare
from reports.analyse.compare.sides import Side
from reports.analyse.compare.tables import summaries
from reports.site import layout
from reports.site.compare_findings import findings
from reports.site.page import Album, FigurePage, Section


@dataclass(eq=False)
class ComparePage(FigurePage):
    """The page that compares two sides.

    Attributes:
        sides: the first and the second side.
        comparison: what both have measured.
        noisy: whether the machine was too noisy during the run of one side or both, by that run's own check.
        found: the findings of the comparison, as sentences.
    """

    sides: tuple[Side, Side]
    comparison: Comparison
    noisy: bool
    found: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.comparison.first} beside {self.comparison.second}"

    @property
    def source(self) -> str:
        sides = (f"Side(load(Path({side.run.path.name!r})), {side.device!r})" for side in self.sides)
        return f"comparison = compare({', '.join(sides)})"

    def html(self) -> str:
        return self.render("compare.html")


def compare_page(first: Side, second: Side, folder: str, album: Album) -> ComparePage:
    """The page that compares two sides and is going to lie in `folder` of the site's directory.

    `album` is asked for its figures, which may be drawn later.
    """
    comparison = compare(first, second)
    parts = album.parts(layout.of_comparison(), lambda module: module.panels(comparison))
    tables = tuple(summaries(comparison))
    section = Section(
        title="What both measured",
        anchor=album.slugs.of("both"),
        asked="comparison",
        parts=parts,
        appendix=tables,
        absent="The two have no measurement in common that could be compared.",
    )
    noisy = bool(first.run.noisy or second.run.noisy)
    return ComparePage(folder, album, (section,), (first, second), comparison, noisy, findings(comparison))
