"""python -m reports.importance RUN -o DIR: draw the figures of an importance run."""

import argparse
import sys
from pathlib import Path

from reports.base.errors import ReportError
from reports.draw.style import theme
from reports.read.importance_run import load
from reports.site.layout import of_importance_run
from reports.site.page import Slugs
from reports.site.single_figures import delivered


def main() -> int:
    """Draw the figures and print their paths and captions; returns 1 if that fails with a ReportError, else 0.

    A run without anything to draw is no failure: a line says so.
    """
    parser = argparse.ArgumentParser(prog="python -m reports.importance", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of an importance run")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="default: RUN/figures")
    options = parser.parse_args()
    try:
        lines = write(options.run, options.output or options.run / "figures")
        if not lines:  # planted models have a table in summary.md, and no figure
            lines = [
                f"{options.run}: nothing to draw: no task of this run has finished; see {options.run / 'summary.md'}"
            ]
        print(*lines, sep="\n")  # noqa: T201
    except ReportError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def write(run: Path, output: Path) -> list[str]:
    """Draw every figure as a PNG into the directory `output`; returns a line "PATH: CAPTION" for each.

    Args:
        run: the directory of an importance run, or the .zip of one.

    Raises:
        ReportError: the run can't be read, a file can't be written, or one that is not a report's is in its place.
    """
    tables, slugs, lines = load(run), Slugs(), []
    with delivered(output) as made:
        for name, module in of_importance_run().items():
            for panel in module.panels(tables):
                file = f"{slugs.of(name, panel.slug)}.png"
                with theme():
                    module.draw(panel.frame).savefig(made / file)
                lines.append(f"{output / file}: {module.caption(panel.frame)}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
