"""`python -m reports RUN [RUN...] -o DIR`: read run directories, write a page with figures."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reports.build import build
from reports.errors import ReportError


def main(arguments: Sequence[str] | None = None) -> None:
    """Build a report and print the path of its page; wrong input is a usage error (exit code 2)."""
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a directory the benchmark wrote")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True,
        help="where index.html, samples.parquet and figures/ go; made if it is not there",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        page = build(given.runs, given.output)
    except ReportError as error:
        parser.error(str(error))
    print(page)  # noqa: T201


if __name__ == "__main__":
    main()
