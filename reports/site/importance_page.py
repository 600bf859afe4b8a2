"""The page of the importance experiments: criteria against truth, their stability and their cost."""

from dataclasses import dataclass
from pathlib import Path

from reports.analyse import tables
from reports.base.commands import again
from reports.base.formatting import size
from reports.base.formulas import harmless_csv
from reports.read.archive import opened
from reports.read.documented import documented
from reports.read.intake import contents
from reports.read.sources import Importance
from reports.site import layout
from reports.site.downloads import Download, packed
from reports.site.page import Album, FigurePage, Section


@dataclass(eq=False)
class ImportancePage(FigurePage):
    """The page of one run of the importance experiments.

    Attributes:
        study: the run, as it was read.
        downloads: its data, as the page links to it.
    """

    study: Importance
    downloads: tuple[Download, ...]

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def source(self) -> str:
        return f"tables = load_tables(Path({self.study.path.name!r}))"

    @property
    def headline(self) -> str:
        """The caption of the first figure; "" if the page has none."""
        pictures = [picture for part in self.sections[0].parts for picture in part.pictures]
        return pictures[0].caption if pictures else ""

    def html(self) -> str:
        return self.render(
            "importance.html",
            environment=tables.environment(self.study.environment),
            commands=again(self.study.environment),
        )


def importance_page(study: Importance, folder: str, directory: Path, album: Album) -> ImportancePage:
    """The page of an importance run that is going to lie in `folder` of the site's directory.

    `album` is asked for its figures, which may be drawn later; its downloads are written now, into `directory`.
    """
    parts = album.parts(layout.of_importance_run(), lambda module: module.panels(study.tables))
    section = Section("Which criterion to trust, at which price", album.slugs.of("criteria"), "tables", parts=parts)
    return ImportancePage(folder, album, (section,), study, _downloads(study, directory))


def _downloads(study: Importance, directory: Path) -> tuple[Download, ...]:
    """Write a run's CSV tables into data/ in `directory`, and the whole run as a .zip; returns a Download for each.

    Cells that begin like formulas of a spreadsheet are made harmless in the tables.
    """
    (directory / "data").mkdir(parents=True)
    tables_given = []
    with opened(study.path) as source:
        for name in (name for name in documented(source) if name.endswith(".csv")):
            text = harmless_csv(contents(source / name).decode("utf-8"))
            (directory / "data" / name).write_text(text, encoding="utf-8", newline="")
            files = {"CSV": (f"data/{name}", size(len(text.encode())))}
            tables_given.append(Download(name.removesuffix(".csv"), "", None, files))
    return (*tables_given, packed(study.path, study.name, directory))
