"""Writes single figures, without a page; a list beside them protects other files, as in a report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from reports.draw import svg
from reports.site.delivery import FIGURES, Delivery
from reports.site.workshop import workshop


@contextmanager
def delivered(output: Path, names: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a folder whose files are moved into the directory `output` at the end; other figures there stay.

    Each file appears whole or not at all, and none replaces a file that was not written in this way.

    Args:
        output: the directory, which is made if it isn't there.
        names: the names of the files, if they are known: an error is then raised at once if something is in their way.

    Raises:
        ReportError: `output` can't be written, another process writes into it, or something is in a file's way.
    """
    with workshop(output, *([" and ".join(names)] if names else [])) as made:
        delivery = Delivery(output, FIGURES)
        if names:
            delivery.check(names)
        yield made
        delivery.bring(made, adds=True)


def save(figure: Figure, output: Path, names: Sequence[str]) -> str:
    """Write the figure into the directory `output` under each of these names, whose endings say the format.

    Call it within `style.theme()`. Returns the paths that were written, joined by "and", for the terminal.

    Raises:
        ReportError: a file can't be written, another process writes into `output`, or in a file's place stands
            something that was not written by this function.
    """
    with delivered(output, names) as made:
        for name in names:
            if name.endswith(".svg"):
                (made / name).write_text(svg.text(figure), encoding="utf-8")
            else:
                figure.savefig(made / name)
    return " and ".join(str(output / name) for name in names)
