"""python -m reports.gate.power DIR|calibration.json [-o DIR]: what the gate finds, by the size of a slowdown."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reports.base.errors import ReportError
from reports.draw.style import theme
from reports.figures.gate.power import draw
from reports.read.gate_calibration import FILE, load
from reports.site.single_figures import save

NAMES = ("power.svg", "power.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the gate's power as power.svg and power.png, and print their paths; a ReportError is a usage error.

    Args:
        arguments: those of the command line; None for those of this process. A usage error has the exit code 2.
    """
    parser = argparse.ArgumentParser(prog="python -m reports.gate.power", allow_abbrev=False)
    parser.add_argument("run", metavar="DIR|calibration.json", type=Path)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="default: beside calibration.json")
    options = parser.parse_args(arguments)
    path = options.run / FILE if options.run.is_dir() else options.run
    try:
        frame = load(path)
        with theme():
            print(save(draw(frame), options.output or path.parent, NAMES))  # noqa: T201
    except ReportError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
