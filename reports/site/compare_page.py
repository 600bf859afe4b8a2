"""The page that compares two runs, or two devices of one run."""

from dataclasses import dataclass

from reports.analyse.compare.comparison import Comparison, compare
from reports.analyse.compare.sides import Side
from reports.analyse.compare.tables import summaries
from reports.figures import compare as comparing
from reports.site.compare_findings import findings
from reports.site.page import Album, Section, render


@dataclass(eq=False)
class ComparePage:
    sides: tuple[Side, Side]
    comparison: Comparison
    folder: str
    noisy: bool
    album: Album
    sections: tuple[Section, ...]
    found: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.comparison.first} beside {self.comparison.second}"

    @property
    def path(self) -> str:
        return f"{self.folder}/index.html"

    @property
    def source(self) -> str:
        """The line of Python that makes the comparison."""
        sides = (f"Side(load(Path({side.run.path.name!r})), {side.device!r})" for side in self.sides)
        return f"comparison = compare({', '.join(sides)})"

    def html(self) -> str:
        return render("compare.html", page=self, root="../../", title=self.name)


def compare_page(first: Side, second: Side, folder: str, album: Album) -> ComparePage:
    comparison = compare(first, second)
    parts = tuple(album.part(name, module, module.panels(comparison)) for name, module in comparing.registry().items())
    found = tuple(summaries(comparison))
    section = Section(
        title="What both measured",
        anchor=album.slugs.of("both"),
        asked="comparison",
        parts=parts,
        appendix=found,
        absent="The two have no measurement in common that could be compared.",
    )
    noisy = bool(first.run.noisy or second.run.noisy)
    return ComparePage((first, second), comparison, folder, noisy, album, (section,), findings(comparison))
