"""From runs to a report directory: a site of pages, and all samples of all runs in one file."""

from collections.abc import Sequence
from pathlib import Path

from reports.analyse import frames
from reports.read.sources import Refused, read
from reports.site import site
from reports.site.delivery import Delivery
from reports.site.workshop import workshop

START = "index.html"
MANIFEST = "report-files.json"  # what the report consists of
SAMPLES = "samples.parquet"
FOLDERS = ("runs", "compare", "gallery")


def build(runs: Sequence[Path], output: Path, processes: int | None = None) -> tuple[Path, tuple[Refused, ...]]:
    """Write the report of `runs` into `output`; returns its first page's path, and the runs that could not be read.

    Every file appears whole or not at all: all are made in a hidden directory inside `output` and then renamed, the
    first page last. Files that no report wrote are never written over or taken away.

    Args:
        runs: run directories, or .zip files of them, also of importance experiments.
        output: the report's directory, which is made if it isn't there.
        processes: how many processes draw figures; by default as many as there are cores, up to four.

    Raises:
        ReportError: no run can be read, one is given twice, `output` cannot be written, a foreign file in it is in the
            way, or another process writes into it. Whatever can be known of `output` is checked before a run is read.
    """
    with workshop(output) as made:
        delivery = Delivery(output, MANIFEST, spared={run.resolve() for run in runs})
        delivery.check((START, SAMPLES), FOLDERS)
        sources = read(runs)
        frames.samples(sources.runs).to_parquet(made / SAMPLES, index=False)
        site.write(sources, made, processes)
        delivery.bring(made, last=START)
    return output / START, sources.refused
