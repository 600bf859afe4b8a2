"""The page of a run of bench.runtimes: models in the runtimes that they are deployed to."""

from dataclasses import dataclass
from pathlib import Path

from reports.read.runtimes_run import Table
from reports.read.sources import Runtimes
from reports.site import layout
from reports.site.page import Album, Section
from reports.site.study_page import StudyPage, study_downloads


@dataclass(eq=False)
class RuntimesPage(StudyPage):
    """The page of one run of bench.runtimes; `table` is what was read of it."""

    table: Table
    about = "Pruned, quantised, or both, in each runtime"
    template = "runtimes.html"

    @property
    def source(self) -> str:
        return f"table = load_runtimes(Path({self.run.name!r}))"

    @property
    def missing(self) -> tuple[str, ...]:
        """What was refused or failed, a line each."""
        return self.table.missing()


def runtimes_page(study: Runtimes, folder: str, directory: Path, album: Album) -> RuntimesPage:
    """The page of a run that is going to lie in `folder` of the site's directory; the rest as of `importance_page`."""
    parts = album.parts(layout.of_runtimes_run(), lambda module: module.panels(study.table))
    section = Section("What to ship", album.slugs.of("runtimes"), "table", parts=parts)
    downloads = study_downloads(study.path, directory)
    return RuntimesPage(folder, album, (section,), study.path, study.environment, downloads, study.table)
