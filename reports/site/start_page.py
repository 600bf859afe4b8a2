"""The first page: what was measured, on what, the main figure, what was found, and where everything is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reports.read.sources import Refused
from reports.site.compare_page import ComparePage
from reports.site.findings import MOST
from reports.site.page import Picture, render
from reports.site.run_page import RunPage
from reports.site.study_page import StudyPage


@dataclass(frozen=True)
class Claim:
    """A finding as the first page has it.

    Attributes:
        text: the finding, a sentence.
        link: the place that shows it, a URL relative to the site's directory.
        run: the title of the page that it is from, of a run or of a comparison.
        noisy: whether the machine was too noisy during that run, or one of the two.
    """

    text: str
    link: str
    run: str
    noisy: bool


@dataclass(frozen=True, eq=False)
class StartPage:
    """The first page of the site.

    Attributes:
        runs, comparisons, studies: the pages that it links to; `studies` are those of experiments.
        refused: the runs that could not be read.
        gallery: the path of the gallery; None if there is none.
    """

    runs: Sequence[RunPage]
    comparisons: Sequence[ComparePage]
    studies: Sequence[StudyPage]
    refused: Sequence[Refused]
    gallery: str | None
    path: str = "index.html"

    @property
    def leading(self) -> list[RunPage]:
        """The runs, those first that show a model which was trained elsewhere, for its own sake, in the main figure."""
        return sorted(self.runs, key=lambda page: not any(map(page.run.pretrained, _shown(page))))

    @property
    def claims(self) -> tuple[Claim, ...]:
        """At most MOST claims: the leading run's findings, and one from elsewhere, for which room is left.

        That one is the first finding of the comparison with most speedups or, where no comparison has any, of another
        run.
        """
        claims_by_page = [[*_claims(page)] for page in self.leading]
        widest = sorted(self.comparisons, key=lambda page: -len(page.comparison.speedups))
        compared = [Claim(text, page.path, page.name, page.noisy) for page in widest for text in page.found[:1]]
        others = [*compared, *(claims[0] for claims in claims_by_page[1:] if claims)][:1]
        return (*(claims_by_page[0] if claims_by_page else [])[: MOST - len(others)], *others)

    @property
    def main(self) -> tuple[RunPage, Picture] | None:
        """The page of the first run that has a picture of accuracy against latency, with the picture; None if none has.

        Runs with a pretrained model come before others, and so do such tasks of a run; of several it is that of the
        task which the page's findings name first.
        """
        for page in self.leading:
            for task in _shown(page):
                return page, page.pictures_of("accuracy_latency", task)[0]
        return None

    def html(self) -> str:
        return render("start.html", page=self, root="", title="What pruning attention heads costs and saves")


def _shown(page: RunPage) -> list[str]:
    """The tasks of a run that have a picture of accuracy against latency, the one that leads first."""
    tasks = dict.fromkeys([*(finding.task for finding, _ in page.found), *page.run.tasks])
    shown = [task for task in tasks if task in page.run.tasks and page.pictures_of("accuracy_latency", task)]
    return sorted(shown, key=lambda task: not page.run.pretrained(task))


def _claims(page: RunPage) -> Iterator[Claim]:
    for finding, anchor in page.found:
        yield Claim(finding.text, f"{page.path}#{anchor}", page.run.name, bool(page.run.noisy))
