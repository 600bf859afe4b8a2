"""python -m reports.gate DIR|verdict.json [-o DIR]: draw what the regression gate found."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reports.base.errors import ReportError
from reports.draw.style import theme
from reports.figures.gate.effects import caption, draw
from reports.read.gate_verdict import load
from reports.site.single_figures import save

NAMES = ("effects.svg", "effects.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figure, and print its paths and caption; wrong input is a usage error (exit code 2)."""
    parser = argparse.ArgumentParser(prog="python -m reports.gate", allow_abbrev=False)
    parser.add_argument(
        "run", metavar="DIR|verdict.json", type=Path, help="the directory of a gate run, or its verdict"
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="default: beside verdict.json")
    options = parser.parse_args(arguments)
    try:
        print(write(options.run, options.output))  # noqa: T201
    except ReportError as error:
        parser.error(str(error))


def write(run: Path, output: Path | None = None) -> str:
    """Write effects.svg and effects.png into the directory `output`; returns their paths and the caption.

    Args:
        run: the directory of a gate run, or its verdict.json.
        output: by default the directory that verdict.json is in.

    Raises:
        ReportError: the verdict can't be read (see `load`), or the figure can't be written.
    """
    gate = load(run)
    with theme():
        return f"{save(draw(gate), output or (run if run.is_dir() else run.parent), NAMES)}: {caption(gate)}"


if __name__ == "__main__":
    main()
