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
    """Draw the figure of a gate run, and print its paths and caption; a ReportError is a usage error (exit code 2).

    Args:
        arguments: those of the command line; None for those of this process.
    """
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
    """Draw effects.svg and effects.png into the directory `output`; returns one line, "PATH and PATH: CAPTION".

    Args:
        run: the directory of a gate run, or its verdict.json.
        output: by default the directory that verdict.json is in.

    Raises:
        ReportError: the verdict is missing, damaged, or of another kind or schema; or a file can't be written, or one
            that is not a report's is in its place.
    """
    gate = load(run)
    with theme():
        return f"{save(draw(gate), output or (run if run.is_dir() else run.parent), NAMES)}: {caption(gate)}"


if __name__ == "__main__":
    main()
