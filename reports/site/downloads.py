"""A run's data as files to download: each table as CSV and as Parquet, and an archive to draw the whole run again."""

import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports.analyse.frames import samples
from reports.base.formatting import size
from reports.base.formulas import harmless
from reports.read.archive import is_all, opened
from reports.read.documented import documented
from reports.read.intake import contents
from reports.read.run import Run
from reports.site.page import slug

WHAT: Mapping[str, str] = {
    "samples": "every sample: seconds of one forward pass",
    "cases": "what was timed, one row for each case",
    "counts": "FLOPs, bytes, parameters and peak memory of one call",
    "plans": "accuracy of every plan, with intervals",
    "scores": "importance of every head by every criterion",
    "promises": "what tasks state about themselves, measured",
    "ceilings": "what the machine can do at most",
    "predictions": "latency predicted from measured costs, and measured",
    "operators": "time of every operator in one pass",
    "memory": "bytes allocated over one pass",
    "slices": "the metric of every plan on parts of the examples",
    "calibration": "whether models are as often right as they are sure",
    "reliability": "answers by confidence: how many are right",
    "texts": "what models write for a prompt",
    "unfinished": "what failed, and what was left out by the benchmark",
    "skipped_arms": "peers that were not timed, with the reason",
    "left_out": "what this page could not use, with the reason",
}
MOMENT = (1980, 1, 1, 0, 0, 0)  # the same run makes the same archive


@dataclass(frozen=True)
class Download:
    """A table in one or several formats, or the archive of a whole run, for the links of a page.

    Attributes:
        name: the table's or the archive's name.
        what: what it holds, in words.
        rows: the table's number of rows; None where the page doesn't say.
        files: format, such as "CSV" -> path of the file from the page's folder, and its size in words.
    """

    name: str
    what: str
    rows: int | None
    files: Mapping[str, tuple[str, str]]


def write(run: Run, directory: Path) -> tuple[Download, ...]:
    """Write a run's data into `directory`, the folder of its page; returns a Download for each table and the archive.

    Each table of WHAT that has rows is written into data/ as CSV and as Parquet; then the run itself as a .zip.
    """
    return (*_tables(run, directory), packed(run.path, run.name, directory))


def _tables(run: Run, directory: Path) -> Iterator[Download]:
    (directory / "data").mkdir(parents=True, exist_ok=True)
    for name, what in WHAT.items():
        frame = samples([run]) if name == "samples" else getattr(run, name)
        if len(frame):
            yield Download(name, what, len(frame), dict(_formats(frame, name, directory)))


def _formats(frame: pd.DataFrame, name: str, directory: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    plain = frame.assign(shape=frame["shape"].astype(str)) if "shape" in frame else frame
    parquet, csv = f"data/{name}.parquet", f"data/{name}.csv" + (".gz" if name == "samples" else "")
    plain.to_parquet(directory / parquet, index=False)
    harmless(plain).to_csv(
        directory / csv, index=False, lineterminator="\n",
        compression={"method": "gzip", "mtime": 1} if csv.endswith(".gz") else None,
    )  # fmt: skip
    for kind, file in (("CSV", csv), ("Parquet", parquet)):
        yield kind, (file, size((directory / file).stat().st_size))


def packed(source: Path, name: str, directory: Path) -> Download:
    """Write the run at `source`, a directory or a .zip, into `directory` as a .zip called after `name`.

    It holds only the files that belong to a run. If `source` is a .zip of just these, that is copied as it is.
    """
    file = directory / f"{slug(name)}.zip"
    with opened(source) as run:
        places = [*documented(run)]
        if source.is_file() and is_all(source, places):
            shutil.copyfile(source, file)
        else:
            _pack(run, places, file)
    what = "the run itself: python -m reports draws this page from it"
    return Download(file.name, what, None, {"ZIP": (file.name, size(file.stat().st_size))})


def _pack(run: Path, places: Sequence[str], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for place in places:
            entry = zipfile.ZipInfo(place, MOMENT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, contents(run / place), compresslevel=9)
