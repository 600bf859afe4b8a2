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
    """Yield the directory `path` as it is, or, where `path` is a file, the run in that .zip, unpacked (see `unpacked`).

    Raises:
        ReportError: `path` is a file that `unpacked` refuses. Whether a directory holds a run is not checked here.
    """
    if path.is_file():
        with unpacked(path) as directory:
            yield directory
    else:
        yield path


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield a temporary directory with the run from the .zip `path`, whose files are at the top or in one folder of it.

    Only files that reading needs are unpacked. One too large to be read is there without its data (see `_take`).

    Raises:
        ReportError: `path` is no .zip, is damaged, encrypted or larger than any run, holds no run or several, or has an
            entry that is neither file nor folder or would be unpacked elsewhere. A ReportError that is raised within
            the context is raised again with `path` in place of the temporary directory's path.
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
    """Unpack those entries of the .zip `path` that `_is_wanted` picks into `directory`, and make FOLDERS in it.

    Raises:
        ReportError: an entry is refused (`_check`), there isn't exactly one run (`_root`), or the archive or what would
            be unpacked of it has too many bytes or entries.
    """
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
    """Unpack `entry` into the file `target`; one with too many bytes for its suffix leaves a file without its data.

    That file is sparse and as long as the entry (at most LARGEST bytes), so that whoever reads it refuses it for its
    size.
    """
    with target.open("wb") as file:
        if _is_too_large(entry):
            file.truncate(min(entry.file_size, LARGEST))
        else:
            with archive.open(entry) as packed:  # never gives more than the size that is stated
                shutil.copyfileobj(packed, file)


def _is_too_large(entry: zipfile.ZipInfo) -> bool:
    return entry.file_size > intake.most(Path(entry.filename))


def _check(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Raise a ReportError about the .zip `path` if one of its entries must not be unpacked.

    Refused are entries that are neither file nor folder (links, devices), and those whose name has a drive, begins at
    the root, or contains "..".
    """
    for entry in entries:
        place = PureWindowsPath(entry.filename)  # takes / and \ for separators, and knows drives
        if place.drive or place.root or ".." in place.parts:
            raise ReportError(f"{path}: expected entries that stay inside, got '{entry.filename}'; {GIVE}")
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ReportError(f"{path}: expected files, got the {intake.kind_of(mode)} '{entry.filename}'; {GIVE}")


def _root(path: Path, entries: Sequence[zipfile.ZipInfo]) -> str:
    """The folder in the .zip that holds environment.json, with a slash at its end; "" where that file is at the top.

    Raises:
        ReportError: environment.json is neither at the top nor in exactly one of the folders there.
    """
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
    """Whether the files of the .zip `path` are exactly those at `places`, paths from the run's folder with slashes.

    Raises:
        ReportError: the archive is no regular file, is beyond the limits of what is read, or doesn't hold exactly one
            run.
    """
    with intake.opened(path.resolve(), intake.MOST_ARCHIVE) as file, zipped(path, file) as archive:
        entries = archive.infolist()
        root = _root(path, entries)
        return {entry.filename for entry in entries if not entry.is_dir()} == {root + place for place in places}
