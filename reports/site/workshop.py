"""A hidden folder in which files are made before they are delivered beside it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from reports.base.errors import ReportError

LOCK = ".report.lock"
PREFIX = ".report-"
MARK = "unfinished.txt"
ABOUT = "A report that is being drawn, or whose drawing was cut off: the next one takes this folder away.\n"


@contextmanager
def workshop(output: Path, what: str = "the report") -> Iterator[Path]:
    """Yield a hidden folder inside `output`, removed at the end; so is `output` if it was made here and is still empty.

    Folders that killed processes left behind are removed first. One process at a time has a workshop in `output`.

    Args:
        output: a directory, which is made if it isn't there.
        what: what is being made, as errors call it.

    Raises:
        ReportError: `output` can't be made or written, another process has a workshop there, or something that is no
            lock of a report has the lock's name.
    """
    made = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with _alone(output), _folder(output) as folder:
            yield folder
    except OSError as error:
        raise ReportError(
            f"{output}: expected a directory to write {what} into, and it cannot be made or written "
            f"({error.strerror or error}); give another with -o"
        ) from error
    finally:
        if made and output.is_dir() and not any(output.iterdir()):
            output.rmdir()


@contextmanager
def _folder(output: Path) -> Iterator[Path]:
    """Yield a new folder inside a hidden one in `output`, which is removed at the end with all that is in it.

    Hidden folders that killed processes left are removed first.
    """
    for left in output.glob(f"{PREFIX}*"):
        _clear(left)
    place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=output))
    try:
        (place / MARK).write_text(ABOUT, encoding="utf-8")
        (place / "made").mkdir()
        yield place / "made"
    finally:
        shutil.rmtree(place)


def _clear(left: Path) -> None:
    """Remove `left`, a folder that a killed process left, if it holds a workshop's MARK or is empty; others stay."""
    if left.is_symlink() or not left.is_dir():
        return
    mark = left / MARK
    if mark.is_file() and not mark.is_symlink() and mark.read_bytes() == ABOUT.encode():
        shutil.rmtree(left)
    with suppress(OSError):  # killed before it had a mark; one that is not empty stays
        left.rmdir()


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Within this context, keep other processes from having a workshop in `output`, by an empty lock file there.

    Raises:
        ReportError: another process has one, or there is something else under the lock's name.
    """
    file = output / LOCK
    if os.path.lexists(file) and (file.is_symlink() or not file.is_file() or file.stat().st_size):
        raise ReportError(f"{file}: expected the empty lock of a report, found something else; move it, or give -o")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ReportError(
            f"{output}: another process is writing a report into this directory; wait for it, or give another with -o"
        ) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
