"""python -m reports.gate DIR|verdict.json [-o DIR]: draw what the regression gate found."""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from reports.errors import ReportError
from reports.gate.effects import caption, draw
from reports.gate.load import load
from reports.style import theme

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

    Each file appears whole or not at all.

    Args:
        run: the directory of a gate run, or its verdict.json.
        output: default: where verdict.json is.

    Raises:
        ReportError: the verdict can't be read (see `load`), or the figure can't be written.
    """
    gate = load(run)
    output = output or (run if run.is_dir() else run.parent)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".effects-", dir=output) as workshop:
            with theme(), mpl.rc_context({"svg.hashsalt": "gate"}):  # the same verdict, the same file
                figure = draw(gate)
                figure.savefig(Path(workshop, NAMES[0]), metadata={"Date": None})
                figure.savefig(Path(workshop, NAMES[1]))
            for name in NAMES:
                os.replace(Path(workshop, name), output / name)
    except OSError as error:
        raise ReportError(
            f"{output}: expected a directory to write {' and '.join(NAMES)} into, and they can't be written "
            f"({error.strerror or error}); give another with -o"
        ) from error
    paths = " and ".join(str(output / name) for name in NAMES)
    return f"{paths}: {caption(gate)}"


if __name__ == "__main__":
    main()
