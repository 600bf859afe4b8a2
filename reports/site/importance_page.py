"""The page of the importance experiments: criteria against truth, their stability and their cost."""

from dataclasses import dataclass
from pathlib import Path

from reports.read.sources import Importance
from reports.site import layout
from reports.site.page import Album, Section
from reports.site.study_page import StudyPage, study_downloads


@dataclass(eq=False)
class ImportancePage(StudyPage):
    """The page of one run of the importance experiments."""

    about = "Importance criteria against known truths"
    template = "importance.html"

    @property
    def source(self) -> str:
        return f"tables = load_tables(Path({self.run.name!r}))"


def importance_page(study: Importance, folder: str, directory: Path, album: Album) -> ImportancePage:
    """The page of an importance run that is going to lie in `folder` of the site's directory.

    `album` is asked for its figures, which may be drawn later; its downloads are written now, into `directory`.
    """
    parts = album.parts(layout.of_importance_run(), lambda module: module.panels(study.tables))
    section = Section("Which criterion to trust, at which price", album.slugs.of("criteria"), "tables", parts=parts)
    downloads = study_downloads(study.path, directory)
    return ImportancePage(folder, album, (section,), study.path, study.environment, downloads)
