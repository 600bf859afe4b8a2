"""The first page: what was measured, on what, the main figure, what was found, and where everything is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reports.read.sources import Refused
from reports.site.compare_page import ComparePage
from reports.site.findings import MOST
from reports.site.importance_page import ImportancePage
from reports.site.page import Picture, render
from reports.site.run_page import RunPage


@dataclass(frozen=True)
class Claim:
    """A finding, where it is shown, and whether the run it comes from was disturbed."""

    text: str
    link: str
    run: str
    noisy: bool


@dataclass(frozen=True, eq=False)
class StartPage:
    """The first page of the site."""

    runs: Sequence[RunPage]
    comparisons: Sequence[ComparePage]
    studies: Sequence[ImportancePage]
    refused: Sequence[Refused]
    gallery: str | None
    path: str = "index.html"

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The first run's findings, and the first one of a comparison or, where there is none, of another run."""
        claims_by_page = [[*_claims(page)] for page in self.runs]
        widest = sorted(self.comparisons, key=lambda page: -len(page.comparison.speedups))
        compared = [Claim(text, page.path, page.name, page.noisy) for page in widest for text in page.found[:1]]
        others = [*compared, *(claims[0] for claims in claims_by_page[1:] if claims)][:1]
        return (*(claims_by_page[0] if claims_by_page else [])[: MOST - len(others)], *others)

    @property
    def main(self) -> tuple[RunPage, Picture] | None:
        """The first run's page that has a picture of accuracy against latency, with the first such picture."""
        for page in self.runs:
            tasks = [*(finding.task for finding, _ in page.found), *page.run.tasks]
            for task in tasks:
                if pictures := page.pictures_of("accuracy_latency", task):
                    return page, pictures[0]
        return None

    def html(self) -> str:
        return render("start.html", page=self, root="", title="What pruning attention heads costs and saves")


def _claims(page: RunPage) -> Iterator[Claim]:
    for finding, anchor in page.found:
        yield Claim(finding.text, f"{page.path}#{anchor}", page.run.name, bool(page.run.noisy))
