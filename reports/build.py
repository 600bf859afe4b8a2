"""Runs -> a report directory: a site of pages, and all samples of all runs in one file."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from reports import frames, site
from reports.errors import ReportError
from reports.sources import Refused, read

START = "index.html"
MANIFEST = "files.txt"  # what the report consists of; what an earlier one left and this one has not is taken away
LOCK = ".report.lock"


def build(runs: Sequence[Path], output: Path, processes: int | None = None) -> tuple[Path, tuple[Refused, ...]]:
    """Write the report of `runs` into the directory `output`; the path of its first page, and what could not be read.

    Every file appears whole or not at all: all are made in a hidden directory inside `output` and then
    renamed, the first page last.

    Args:
        processes: that draw figures; as many as there are cores, up to four, unless it is given.

    Raises:
        ReportError: no run that can be read, the same one twice, an output that cannot be written, or into which
            another process writes; the last two are found out before any run is read.
    """
    with _workshop(output) as workshop:
        sources = read(runs)
        frames.samples(sources.runs).to_parquet(workshop / "samples.parquet", index=False)
        site.write(sources, workshop, processes)
        _deliver(workshop, output)
    return output / START, sources.refused


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
        with _alone(output):
            for name in (START, "samples.parquet", "runs/any", "compare/any", "gallery/any"):
                _check(output, Path(name))
            yield workshop
    finally:
        shutil.rmtree(workshop)
        if made and not any(output.iterdir()):
            output.rmdir()


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Only one process writes into a directory."""
    lock = FileLock(output / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ReportError(
            f"{output}: another process is writing a report into this directory; wait for it, or give another with -o"
        ) from error
    try:
        yield
    finally:
        (output / LOCK).unlink(missing_ok=True)
        lock.release()


def _deliver(workshop: Path, output: Path) -> None:
    """Rename everything into place, the first page after what it leads to; take away what is no longer part of it."""
    made = sorted(path.relative_to(workshop).as_posix() for path in workshop.rglob("*") if path.is_file())
    for name in made:
        _check(output, Path(name))
    earlier = _manifest(output)
    (workshop / MANIFEST).write_text("".join(f"{name}\n" for name in made), encoding="utf-8")
    for name in sorted([*made, MANIFEST], key=lambda name: name == START):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(workshop / name, output / name)
    for name in earlier - {*made}:
        (output / name).unlink()
        _remove_empty(output / name, output)


def _check(output: Path, name: Path) -> None:
    """Nothing is in the way of a file or of one of its directories."""
    if (output / name).is_dir():
        raise ReportError(f"{output / name}: a directory is in the way of the report; move it, or give another -o")
    for parent in name.parents:
        if (output / parent).is_file():
            raise ReportError(f"{output / parent}: a file is in the way of the report; move it, or give another -o")


def _manifest(output: Path) -> set[str]:
    """The files of an earlier report in the same directory; names that would lead out of it are none of ours."""
    file = output / MANIFEST
    names = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    own = {name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts}
    return {name for name in own if (output / name).is_file()}


def _remove_empty(file: Path, output: Path) -> None:
    for parent in file.relative_to(output).parents:
        folder = output / parent
        if parent.parts and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
