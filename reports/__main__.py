"""`python -m reports RUN [RUN...] -o DIR`: read run directories, write a site of pages with figures and data."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.base.errors import ReportError
from reports.site.build import build


def main(arguments: Sequence[str] | None = None) -> None:
    """Build a report and print the path of its first page; a ReportError is a usage error (exit code 2).

    A run that cannot be read, beside others that can, is left out: standard error and the first page say why.

    Args:
        arguments: those of the command line; None for those of this process.
    """
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path,
        help="a directory that the benchmark or the importance experiments wrote, or a .zip of one",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True,
        help="where index.html, samples.parquet, runs/, compare/ and gallery/ go; made if it is not there",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        page, refused = build(options.runs, options.output)
    except ReportError as error:
        parser.error(str(error))
    for run in refused:
        print(f"left out: {run.reason}", file=sys.stderr)  # noqa: T201
    print(page)  # noqa: T201


if __name__ == "__main__":
    main()
