"""python -m reports.gate DIR|verdict.json [-o DIR]: draw what the regression gate found."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from reports.base.errors import ReportError
from reports.draw import svg
from reports.draw.style import theme
from reports.figures.gate.effects import caption, draw
from reports.read.gate_verdict import load
from reports.site.delivery import FIGURES, Delivery
from reports.site.workshop import workshop

NAMES = ("effects.svg", "effects.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, and print the paths and what is to be seen; wrong input is a usage error (exit code 2)."""
    parser = argparse.ArgumentParser(prog="python -m reports.gate", allow_abbrev=False)
    parser.add_argument(
        "run", metavar="DIR|verdict.json", type=Path, help="the directory of a gate run, or its verdict"
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="default: beside verdict.json")
    given = parser.parse_args(arguments)
    try:
        print(write(given.run, given.output))  # noqa: T201
    except ReportError as error:
        parser.error(str(error))


def write(run: Path, output: Path | None = None) -> str:
    """Write effects.svg and effects.png into the directory `output`; returns their paths and the caption.

    Args:
        run: the directory of a gate run, or its verdict.json.
        output: default: where verdict.json is.

    Raises:
        ReportError: the verdict can't be read (see `load`), or the figure can't be written.
    """
    gate = load(run)
    with theme():
        return f"{saved(draw(gate), output or (run if run.is_dir() else run.parent), NAMES)}: {caption(gate)}"


def saved(figure: Figure, output: Path, names: Sequence[str]) -> str:
    """Write the figure, within its theme, under these names; returns their paths, in words.

    Each file appears whole or not at all, and none over one that was not drawn here.

    Raises:
        ReportError: it can't be written, or something is in the way.
    """
    with workshop(output, " and ".join(names)) as made:
        delivery = Delivery(output, FIGURES)
        delivery.check(names)
        for name in names:
            if name.endswith(".svg"):
                (made / name).write_text(svg.text(figure), encoding="utf-8")
            else:
                figure.savefig(made / name)
        delivery.bring(made, adds=True)
    return " and ".join(str(output / name) for name in names)


if __name__ == "__main__":
    main()
