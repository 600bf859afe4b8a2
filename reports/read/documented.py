"""Says which files are a run's: those that the documentation names, and nothing else that lies beside them."""

from collections.abc import Iterator
from pathlib import Path

from reports.base.errors import ReportError
from reports.read.description import TABLES
from reports.read.files import read_json
from reports.read.intake import files_in, opened

FOLDERS = ("cases", "plans", "steps")  # of a benchmark run's others, traces/ may be large, and is not read
SAMPLES = "samples.csv"  # every timed call, of which tables are made
NAMES = (  # docs/run-directory.md; without pytest-benchmark's own copy of the samples
    "environment.json", *TABLES, "attention.npz", "examples.parquet",
    # docs/importance.md
    "agreement.csv", "curves.csv", "areas.csv", "exhaustive.csv", "planted.csv", "stability.csv", "cost.csv",
    "findings.csv", "summary.md",
    # docs/exporting.md
    "runtimes.csv", SAMPLES,
)  # fmt: skip


def is_documented(place: str) -> bool:
    """Whether docs/run-directory.md, importance.md or exporting.md names a file at `place`, a path in a run."""
    folder, _, name = place.rpartition("/")
    return folder in FOLDERS and name.endswith(".json") if folder else name in NAMES


def documented(run: Path) -> Iterator[str]:
    """Yield the places (paths from `run`, with /) of those documented files in the directory `run` that can be read.

    Left out are links, and files with too many bytes. Of cases/, plans/ and steps/ only JSON objects that have a schema
    and a status are yielded, and none where the folder itself is a link.
    """
    yield from (name for name in sorted(NAMES) if _can_be_read(run / name))
    for folder in FOLDERS:
        try:
            files = files_in(run / folder, ".json")
        except ReportError:  # a link, whose files are not the run's
            continue
        yield from (f"{folder}/{file.name}" for file in files if _is_record(file))


def _can_be_read(file: Path) -> bool:
    try:
        with opened(file):
            return True
    except (OSError, ReportError):
        return False


def _is_record(file: Path) -> bool:
    try:
        document = read_json(file)
    except ReportError:
        return False
    return isinstance(document.get("schema"), int) and isinstance(document.get("status"), str)
