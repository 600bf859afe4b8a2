"""What pages of experiments share that are no benchmark runs: one section of figures, the tables, and the whole run."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.analyse import tables
from reports.base.commands import again
from reports.base.formatting import size
from reports.base.formulas import harmless_csv
from reports.read.archive import opened
from reports.read.documented import SAMPLES, documented
from reports.read.intake import contents
from reports.read.run import name_of
from reports.site.downloads import Download, packed
from reports.site.page import FigurePage


@dataclass(eq=False)
class StudyPage(FigurePage):
    """The page of one run of an experiment.

    Attributes:
        run: its path as given.
        facts: what its environment.json holds.
        downloads: its data, as the page links to it.
    """

    run: Path
    facts: Mapping[str, Any]
    downloads: tuple[Download, ...]

    @property
    @abstractmethod
    def about(self) -> str:
        """What kind of experiment it is, on the first page of the site."""

    @property
    @abstractmethod
    def template(self) -> str:
        """The file in pages/ that it is made from."""

    @property
    def name(self) -> str:
        return name_of(self.run)

    @property
    def headline(self) -> str:
        """The caption of the first figure; "" if the page has none."""
        pictures = [picture for part in self.sections[0].parts for picture in part.pictures]
        return pictures[0].caption if pictures else ""

    def html(self) -> str:
        return self.render(self.template, environment=tables.environment(self.facts), commands=again(self.facts))


def study_downloads(run: Path, directory: Path) -> tuple[Download, ...]:
    """Write a run's CSV tables into data/ in `directory`, and the whole run as a .zip; returns a Download for each.

    Samples, which may be many, are in the latter alone. Cells that begin like formulas of a spreadsheet are made
    harmless in the tables.
    """
    (directory / "data").mkdir(parents=True)
    tables_given = []
    with opened(run) as source:
        for name in (name for name in documented(source) if name.endswith(".csv") and name != SAMPLES):
            text = harmless_csv(contents(source / name).decode("utf-8"))
            (directory / "data" / name).write_text(text, encoding="utf-8", newline="")
            files = {"CSV": (f"data/{name}", size(len(text.encode())))}
            tables_given.append(Download(name.removesuffix(".csv"), "", None, files))
    return (*tables_given, packed(run, name_of(run), directory))
