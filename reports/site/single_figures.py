"""Figures that are drawn one by one, and no page: guarded as a report is, by a list of files beside them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from reports.draw import svg
from reports.site.delivery import FIGURES, Delivery
from reports.site.workshop import workshop


@contextmanager
def delivered(output: Path, names: Sequence[str] = ()) -> Iterator[Path]:
    """A folder whose files come into the directory `output` at the end; what other figures lie there stays.

    Each file appears whole or not at all, and none over one that was not drawn here.

    Args:
        names: of the files, as far as they are known before: nothing is drawn if something is in their way.

    Raises:
        ReportError: they can't be written, or something is in the way.
    """
    with workshop(output, *([" and ".join(names)] if names else [])) as made:
        delivery = Delivery(output, FIGURES)
        if names:
            delivery.check(names)
        yield made
        delivery.bring(made, adds=True)


def save(figure: Figure, output: Path, names: Sequence[str]) -> str:
    """Write the figure, within its theme, under these names into `output`; returns their paths, in words.

    Raises:
        ReportError: see `delivered`.
    """
    with delivered(output, names) as made:
        for name in names:
            if name.endswith(".svg"):
                (made / name).write_text(svg.text(figure), encoding="utf-8")
            else:
                figure.savefig(made / name)
    return " and ".join(str(output / name) for name in names)
