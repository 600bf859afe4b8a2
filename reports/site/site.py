"""From what was read to the pages of a site, and all files beside them."""

from collections.abc import Sequence
from pathlib import Path

from reports.analyse.compare.sides import pairs, sides
from reports.draw.drawing import Studio
from reports.read.run import Run, name_of
from reports.read.sources import Importance, Runtimes, Sources
from reports.site import downloads, run_page
from reports.site.compare_page import ComparePage, compare_page
from reports.site.gallery import gallery
from reports.site.importance_page import ImportancePage, importance_page
from reports.site.page import Album, FigurePage, Page, Slugs
from reports.site.run_page import RunPage
from reports.site.runtimes_page import RuntimesPage, runtimes_page
from reports.site.start_page import StartPage


def write(sources: Sources, directory: Path, processes: int | None = None) -> None:
    """Write index.html, runs/, compare/ and gallery/ into `directory`: all pages, with their figures and data.

    What `sources` lists as refused is named on the first page.

    Args:
        processes: how many processes draw figures; by default as many as there are cores, up to four.
    """
    folders = Slugs()
    with Studio(processes) as studio:
        runs = [_run(run, studio, directory, folders) for run in sources.runs]
        studies = [_study(study, studio, directory, folders) for study in sources.importance]
        deployed = [_deployed(study, studio, directory, folders) for study in sources.runtimes]
        comparisons = _comparisons(sources.runs, studio, directory)
    pictured: list[FigurePage] = [*runs, *studies, *deployed, *comparisons]
    for page in pictured:
        page.album.fit()
    every_figure = gallery(runs, studies, deployed, comparisons)
    link = every_figure.path if every_figure else None
    start = StartPage(runs, comparisons, [*studies, *deployed], sources.refused, link)
    _write([*pictured, *filter(None, [every_figure]), start], directory)


def _write(pages: Sequence[Page], directory: Path) -> None:
    for page in pages:
        file = directory / page.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page.html(), encoding="utf-8")


def _run(run: Run, studio: Studio, directory: Path, folders: Slugs) -> RunPage:
    folder = f"runs/{folders.of(run.name)}"
    album = Album(studio, directory / folder / "figures")
    sections = run_page.sections(run, album)
    return RunPage(folder, album, sections, run, downloads.write(run, directory / folder))


def _study(study: Importance, studio: Studio, directory: Path, folders: Slugs) -> ImportancePage:
    folder = f"runs/{folders.of(study.name)}"
    return importance_page(study, folder, directory / folder, Album(studio, directory / folder / "figures"))


def _deployed(study: Runtimes, studio: Studio, directory: Path, folders: Slugs) -> RuntimesPage:
    folder = f"runs/{folders.of(name_of(study.path))}"
    return runtimes_page(study, folder, directory / folder, Album(studio, directory / folder / "figures"))


def _comparisons(runs: Sequence[Run], studio: Studio, directory: Path) -> list[ComparePage]:
    folders, pages = Slugs(), []
    for first, second in pairs(sides(runs)):
        folder = f"compare/{folders.of(f'{first.name}--{second.name}')}"
        pages.append(compare_page(first, second, folder, Album(studio, directory / folder / "figures")))
    return pages
