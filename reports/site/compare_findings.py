"""What a reader should know first about two sides: a few sentences with numbers and intervals."""

from collections.abc import Iterator

from reports.analyse.compare.comparison import Comparison
from reports.analyse.compare.phrases import largest, tally
from reports.figures.compare.accuracies import agreement, choices


def findings(comparison: Comparison) -> tuple[str, ...]:
    """The findings of a comparison, a sentence each; none where the sides have nothing in common, as its notes say."""
    return tuple(_findings(comparison))


def _findings(comparison: Comparison) -> Iterator[str]:
    if len(comparison.speedups):
        shown = comparison.beside(comparison.speedups)
        yield f"{tally(shown.table, 'speedup')}; {largest(shown)}."
    if len(chosen := choices(comparison)):
        yield f"{agreement(chosen)}."
    if len(comparison.peers):
        shown = comparison.beside(comparison.peers)
        yield f"The bare layer beside its peers: {tally(shown.table, 'ratio')}; {largest(shown)}."
