"""Unpacks a run directory from a .zip: what reading needs of it, into a temporary directory that is gone afterwards."""

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from reports.base.errors import ReportError
from reports.read import intake
from reports.read.documented import FOLDERS, is_documented
from reports.read.environment import FILE, GIVE
from reports.read.files import damage
from reports.read.zips import zipped

LARGEST = 2**40  # file that any system can have, as long as it is empty
OTHER_RUNS = ("gate.json", "verdict.json")  # tell what else a directory is


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Within the context the run directory `path`, or that in the archive `path`, unpacked."""
    if path.is_file():
        with unpacked(path) as directory:
            yield directory
    else:
        yield path


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Within the context the run directory in the archive `path`, where its files lie at the top or in a single folder.

    Raises:
        ReportError: `path` is no .zip, or damaged, or larger than any run, or has an entry that would be unpacked
            elsewhere. Errors that are raised within the context name the archive.
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
    """Unpack the files that reading needs from the archive into `directory`, within the limits."""
    with intake.opened(path.resolve(), intake.MOST_ARCHIVE) as file, zipped(path, file) as archive:
        entries = archive.infolist()
        _check(path, entries)
        root = _root(path, entries)
        wanted = [entry for entry in entries if _is_wanted(entry, root)]
        size = sum(entry.file_size for entry in wanted if not _is_too_large(entry))
        intake.check_size(path, size, intake.MOST_UNPACKED, " to unpack")
        for folder in FOLDERS:
            (directory / folder).mkdir()
        for entry in wanted:
            _take(archive, entry, directory / entry.filename.removeprefix(root))


def _take(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Unpack one entry; one too large to be read becomes a file of that size without data, which is refused later."""
    with target.open("wb") as file:
        if _is_too_large(entry):
            file.truncate(min(entry.file_size, LARGEST))
        else:
            with archive.open(entry) as packed:  # never gives more than the size that is stated
                shutil.copyfileobj(packed, file)


def _is_too_large(entry: zipfile.ZipInfo) -> bool:
    return entry.file_size > intake.most(Path(entry.filename))


def _check(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Check that every entry is a file or a folder, and that none would be unpacked outside the directory."""
    for entry in entries:
        place = PureWindowsPath(entry.filename)  # takes / and \ for separators, and knows drives
        if place.drive or place.root or ".." in place.parts:
            raise ReportError(f"{path}: expected entries that stay inside, got '{entry.filename}'; {GIVE}")
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ReportError(f"{path}: expected files, got the {intake.kind_of(mode)} '{entry.filename}'; {GIVE}")


def _root(path: Path, entries: Sequence[zipfile.ZipInfo]) -> str:
    """The folder in the archive, with a slash, in which the run's files lie; empty where they lie at the top."""
    folders = [entry.filename.removesuffix(FILE) for entry in entries if entry.filename.split("/")[-1] == FILE]
    roots = [root for root in folders if root.count("/") <= 1]
    if "" in roots:
        return ""
    if len(roots) != 1:
        which = f"{len(roots)} folders with one" if roots else "none, or it is cut off"
        raise ReportError(f"{path}: expected one run directory with {FILE} in the archive, found {which}; {GIVE}")
    return roots[0]


def _is_wanted(entry: zipfile.ZipInfo, root: str) -> bool:
    place = entry.filename.removeprefix(root)
    return entry.filename.startswith(root) and "\\" not in place and (is_documented(place) or place in OTHER_RUNS)


def is_all(path: Path, places: Collection[str]) -> bool:
    """Whether the run in the archive has files at exactly these places, each a path from the run's top."""
    with intake.opened(path.resolve(), intake.MOST_ARCHIVE) as file, zipped(path, file) as archive:
        entries = archive.infolist()
        root = _root(path, entries)
        return {entry.filename for entry in entries if not entry.is_dir()} == {root + place for place in places}
