"""A run directory out of a .zip: what reading needs of it, in a temporary directory that is gone afterwards."""

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from reports.environment import FILE, GIVE
from reports.errors import ReportError
from reports.files import damage

MOST_ENTRIES = 200_000
MOST_BYTES = 2 * 2**30
FOLDERS = ("cases", "plans")  # the only ones that are read: traces/ may be large


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The run directory `path`, or that in the archive `path`."""
    if path.is_file():
        with unpacked(path) as directory:
            yield directory
    else:
        yield path


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The run directory in the archive `path`; its files lie at the top, or in a single folder.

    Raises:
        ReportError: it is no such archive, or a damaged one, or one that no run is so large as, or an entry of it
            would leave the directory. Errors that are raised inside name the archive.
    """
    if not zipfile.is_zipfile(path):
        raise ReportError(f"{path}: expected a run directory, found a file that is no whole .zip archive; {GIVE}")
    with tempfile.TemporaryDirectory(prefix="run-") as temporary:
        directory = Path(temporary)
        try:
            with damage(path, "a whole .zip archive without a password"):
                _unpack(path, directory)
            yield directory
        except ReportError as error:  # the reader knows the archive, not the directory
            raise ReportError(str(error).replace(str(directory), str(path))) from error


def _unpack(path: Path, directory: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        _check(path, entries)
        root = _root(path, entries)
        wanted = [entry for entry in entries if _is_wanted(entry, root)]
        size = sum(entry.file_size for entry in wanted)  # more than it states is never read out of an entry
        if size > MOST_BYTES:
            raise ReportError(
                f"{path}: expected at most {MOST_BYTES / 2**30:g} GiB to unpack, got {size / 2**30:.1f}; {GIVE}"
            )
        for folder in FOLDERS:
            (directory / folder).mkdir()
        for entry in wanted:
            with archive.open(entry) as packed, (directory / entry.filename.removeprefix(root)).open("wb") as file:
                shutil.copyfileobj(packed, file)


def _check(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Every entry stays inside, and is there once."""
    if len(entries) > MOST_ENTRIES:
        raise ReportError(f"{path}: expected at most {MOST_ENTRIES:,} entries, got {len(entries):,}; {GIVE}")
    seen = set()
    for entry in entries:
        place = PureWindowsPath(entry.filename)  # takes / and \ for separators, and knows drives
        if place.drive or place.root or ".." in place.parts:
            raise ReportError(f"{path}: expected entries that stay inside, got '{entry.filename}'; {GIVE}")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ReportError(f"{path}: expected files, got the link '{entry.filename}'; {GIVE}")
        if entry.filename in seen:
            raise ReportError(f"{path}: expected every entry once, got '{entry.filename}' twice; {GIVE}")
        seen.add(entry.filename)


def _root(path: Path, entries: Sequence[zipfile.ZipInfo]) -> str:
    """What stands before the names of the run's files: nothing, or the single folder in which they lie."""
    found = [entry.filename.removesuffix(FILE) for entry in entries if entry.filename.split("/")[-1] == FILE]
    roots = [root for root in found if root.count("/") <= 1]
    if "" in roots:
        return ""
    if len(roots) != 1:
        which = f"{len(roots)} folders with one" if roots else "none, or it is cut off"
        raise ReportError(f"{path}: expected one run directory with {FILE} in the archive, found {which}; {GIVE}")
    return roots[0]


def _is_wanted(entry: zipfile.ZipInfo, root: str) -> bool:
    folder, _, name = entry.filename.removeprefix(root).rpartition("/")
    inside = entry.filename.startswith(root) and bool(name) and "\\" not in name
    return inside and (not folder or folder in FOLDERS)
