"""Reads arrays from an .npz. Their headers are read first: nothing is unpacked that is too large, or no plain array."""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from reports.base.errors import ReportError
from reports.read.files import REMEDY, damage
from reports.read.intake import MOST_ARRAYS, MOST_VALUES, check_count, check_size, opened
from reports.read.problems import Problems
from reports.read.zips import zipped

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_arrays(file: Path, problems: Problems) -> dict[str, np.ndarray]:
    """The arrays in the .npz `file` by key, an entry's name without .npy, without those that can't be read.

    Left out are arrays that are pickled (of Python objects), damaged, or too large together with those before them
    (MOST_ARRAYS bytes, MOST_VALUES values); `problems` is told of each. Where the archive can't be opened there are
    none.
    """
    arrays: dict[str, np.ndarray] = {}
    with (
        problems.noted(file),
        damage(file, "an npz archive of plain arrays"),
        opened(file) as raw,
        zipped(file, raw) as archive,
    ):
        size = values = 0
        for entry in archive.infolist():
            key = entry.filename.removesuffix(".npy")
            with problems.noted(file), damage(file, f"a plain array at '{key}'"):
                check_size(file, size + entry.file_size, MOST_ARRAYS, f" up to '{key}'")
                arrays[key] = _array(file, archive, entry, key, MOST_VALUES - values)
                size, values = size + entry.file_size, values + arrays[key].size
    return arrays


def _array(file: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, key: str, room: int) -> np.ndarray:
    with archive.open(entry) as packed:
        shape, dtype = _header(packed)
    count = math.prod(shape)
    check_count(file, count, room, f"more values at '{key}'")
    if count * dtype.itemsize > entry.file_size:
        raise ReportError(f"{file}: '{key}': expected {shape} values of {dtype}, got {entry.file_size} bytes; {REMEDY}")
    with archive.open(entry) as packed:
        return np.asarray(npy.read_array(packed, allow_pickle=False))


def _header(packed: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(packed)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the format is none of plain arrays")
    shape, _, dtype = HEADERS[version](packed)
    return shape, dtype
