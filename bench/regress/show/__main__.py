"""python -m bench.regress.show FORMAT verdict.json: show a verdict again, as table, markdown or junit.

Only the table needs a package beside Python's own.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.regress.show.junit import junit
from bench.regress.show.markdown import markdown

SCHEMA = 1
LARGEST = 20_000_000  # bytes; a verdict of a thousand benchmarks has one million


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the verdict in a file, in the format that the command line names.

    Raises:
        SystemExit: with exit code 2, if the options are wrong or the file can't be read or holds no verdict.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.regress.show", allow_abbrev=False)
    parser.add_argument("format", choices=("table", "markdown", "junit"))
    parser.add_argument("file", metavar="verdict.json", type=Path)
    options = parser.parse_args(arguments)
    try:
        verdict = read(options.file)
    except (OSError, ValueError, RecursionError) as error:
        parser.error(f"{options.file}: expected a verdict of the gate (schema {SCHEMA}): {error}")
    if options.format == "table":
        from bench.regress.show.terminal import show  # rich isn't there where only files are written

        show(verdict)
    else:
        sys.stdout.write(markdown(verdict) if options.format == "markdown" else junit(verdict))


def read(path: Path) -> dict[str, Any]:
    """Read the verdict in a file, as a mapping.

    Raises:
        OSError: the file can't be read.
        ValueError: the file has more than LARGEST bytes, is no JSON, or holds no verdict of this schema.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"it has {size:,} bytes, and a verdict at most {LARGEST:,}")
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("kind") != "gate" or document.get("schema") != SCHEMA:
        raise ValueError("it is another document, or one of another schema")
    return document


if __name__ == "__main__":
    main()
