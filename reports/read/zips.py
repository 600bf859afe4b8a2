"""Opens a .zip within limits: its list of entries is no longer than that of any run, and has every entry once."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from reports.base.errors import ReportError
from reports.read.intake import MOST_DIRECTORY, MOST_ENTRIES, check_count, check_size


@contextmanager
def zipped(path: Path, file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Yield the .zip in the open `file`, if its list of entries is within the limits; errors call it `path`.

    Raises:
        ReportError: it has more entries than MOST_ENTRIES, or one twice, or its list of entries has too many bytes. On
            damaged archives zipfile raises what it likes.
    """
    with zipfile.ZipFile(cast(IO[bytes], _Reader(path, file))) as archive:
        entries = archive.infolist()
        check_count(path, len(entries), MOST_ENTRIES, "entries")
        seen = set()
        for entry in entries:
            if entry.filename in seen:
                raise ReportError(f"{path}: expected every entry once, got '{entry.filename}' twice; make it again")
            seen.add(entry.filename)
        yield archive


class _Reader:
    """A file for zipfile that raises a ReportError on a read of more bytes than a list of entries may have."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        check_size(self._path, size, MOST_DIRECTORY, " for the list of entries")
        return self._file.read(size)  # without a size, no more than the end of the file
