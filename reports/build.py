"""Run directories -> a report directory: index.html, samples.parquet, figures/."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from reports import page
from reports.errors import ReportError
from reports.load import load
from reports.run import Run

SAMPLES = [
    "case", "task", "criterion", "kept_fraction", "heads_kept", "batch", "seq_len", "device", "dtype", "arm", "round",
    "seconds", "process", "cache", "mode", "phase", "mask",
]  # fmt: skip


def build(runs: Sequence[Path], output: Path) -> Path:
    """Write the report of `runs` into the directory `output`; returns the path of its page.

    Every file appears whole or not at all: all are made in a hidden directory inside `output` and then
    renamed, the page last.

    Raises:
        ReportError: a run that cannot be read, the same run twice, or an output that cannot be written;
            the last is found out before any run is read.
    """
    if twice := [run for place, run in enumerate(runs) if run.resolve() in {other.resolve() for other in runs[:place]}]:
        raise ReportError(f"{twice[0]}: this run is named more than once; name each run once")
    with _workshop(output) as workshop:
        loaded = [load(run) for run in runs]
        samples(loaded).to_parquet(workshop / "samples.parquet", index=False)
        page.write(loaded, workshop)
        _deliver(workshop, output)
    return output / "index.html"


def samples(runs: Sequence[Run]) -> pd.DataFrame:
    """Every sample of the runs once, tidy, with the columns SAMPLES.

    A sample stands under the case that timed it; cases that share its shape name that case in `timed_by` of
    their own file and have no rows here. With several runs, cases read RUN/CASE.
    """
    frames = []
    for run in runs:
        about = run.cases[[name for name in SAMPLES if name in run.cases]]
        frame = run.samples.merge(about, on="case", how="left")[SAMPLES]
        frames.append(frame if len(runs) == 1 else frame.assign(case=run.name + "/" + frame["case"]))
    return pd.concat(frames, ignore_index=True)


@contextmanager
def _workshop(output: Path) -> Iterator[Path]:
    """A hidden directory inside `output`, gone at the end; so is `output` if it was made here and stays empty."""
    made = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=".report-", dir=output))
    except OSError as error:
        raise ReportError(
            f"{output}: expected a directory to write the report into, and it cannot be made or written "
            f"({error.strerror}); give another with -o"
        ) from error
    try:
        _check_targets(output)
        yield workshop
    finally:
        shutil.rmtree(workshop)
        if made and not any(output.iterdir()):
            output.rmdir()


def _check_targets(output: Path) -> None:
    for name, is_wrong, what in (
        ("index.html", Path.is_dir, "directory"),
        ("samples.parquet", Path.is_dir, "directory"),
        ("figures", Path.is_file, "file"),
    ):
        if is_wrong(output / name):
            raise ReportError(f"{output / name}: a {what} is in the way of the report; move it, or give another -o")


def _deliver(workshop: Path, output: Path) -> None:
    """Rename everything into place, the page after what it is made of."""
    (output / "figures").mkdir(exist_ok=True)
    figures = sorted(path.relative_to(workshop) for path in (workshop / "figures").glob("*.png"))
    for name in (*figures, Path("samples.parquet"), Path("index.html")):
        os.replace(workshop / name, output / name)
