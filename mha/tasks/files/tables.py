"""Rows from a local file or image folder, by the `datasets` library; nothing is downloaded, and no code runs."""

import glob
import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mha.values.errors import TaskError
from mha.values.optional_packages import needed

WHOLE = {"keep_default_na": False}  # a cell that says NA or None is a text
# How a file's name ends -> the reader of `datasets`, and what it is told.
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", WHOLE),
    ".tsv": ("csv", {"sep": "\t", **WHOLE}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {}),
}
NOTHING = "corresponds to no data"  # says datasets of a table that has no rows
FOLDER = ("imagefolder", {"drop_labels": False})


class Row(dict[str, Any]):
    """What is read of an example, as "text" and "label" -> its value.

    Attributes:
        where: which row of which file it is, for errors: rows are drawn, divided and dropped before they are looked at.
    """

    __slots__ = ("where",)

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where


class Table(NamedTuple):
    """A file's rows.

    Attributes:
        columns: the names of its columns.
        rows: column -> value, one a row; classes are given by their names.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]


def read_table(path: Path, unit: str = "line") -> Table:
    """All rows of a CSV, TSV, JSON lines, Parquet or plain text file, or of a folder of images by class.

    They are numbered from 1 as `datasets` reads them, without a header; those that have nothing are then left out.

    Args:
        unit: of plain text, what a row is: "line", "paragraph" or "document". Its column is "text".

    Raises:
        TaskError: the name ends otherwise, or the file is not what its name says.
        MissingPackageError: `datasets` is not installed.
    """
    reader, options = _reader(path, unit)
    if path.is_file() and not path.stat().st_size:
        return Table(path, (), [])
    datasets = needed("datasets", "hf", f"to read {path.name}")
    files = glob.escape(str(path)) + ("/**" if path.is_dir() else "")
    with _quiet(datasets), tempfile.TemporaryDirectory() as cache:
        try:
            loaded = datasets.load_dataset(
                reader, split="train", cache_dir=cache, keep_in_memory=True, data_files=files, **options
            )
            rows = [
                Row(_named(row, loaded.features), f"row {number} of {path.name}")
                for number, row in enumerate(_undecoded(datasets, loaded), start=1)
            ]
        except Exception as error:  # datasets wraps whatever its readers raise
            cause = error.__cause__ or error
            if NOTHING in str(cause):
                return Table(path, (), [])
            raise TaskError(f"{path}: can't be read as {reader}: {type(cause).__name__}: {cause}") from error
    return Table(path, tuple(loaded.column_names), [row for row in rows if _has_something(row)])


def _reader(path: Path, unit: str) -> tuple[str, dict[str, Any]]:
    """The reader of `datasets` for this file or folder, and its options.

    Raises:
        TaskError: the name ends in a way that no reader is known for.
    """
    if path.is_dir():
        return FOLDER
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise TaskError(
            f"{path}: can't tell what this is; names end in {', '.join(READERS)}, or it is a folder of images"
        )
    reader, options = READERS[suffix]
    return reader, {"sample_by": unit} if reader == "text" else options


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Within the context, `datasets` shows no progress bars; afterwards as before."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _named(row: dict[str, Any], features: Any) -> dict[str, Any]:
    """The row with the names of classes in place of their numbers."""
    return {name: _name_of(value, features[name]) for name, value in row.items()}


def _undecoded(datasets: Any, loaded: Any) -> Any:
    """The rows, images as bytes or paths: `datasets` would fetch those whose path is an address."""
    for name, feature in loaded.features.items():
        if isinstance(feature, datasets.Image):
            loaded = loaded.cast_column(name, datasets.Image(decode=False))
    return loaded


def _image(value: dict[str, Any]) -> Any:
    """The image that is given by its bytes, or as a local file."""
    image_module = needed("PIL.Image", "hf", "to read images")
    with image_module.open(io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]) as image:
        image.load()
        image.filename = Path(value["path"] or "").name
        return image


def _name_of(value: Any, feature: Any) -> Any:
    """The name of a class, or of each in a list; an image as one of PIL; any other value as it is."""
    inner = getattr(feature, "feature", None)
    if type(feature).__name__ == "Image" and value is not None:
        return _image(value)
    if isinstance(value, list) and inner is not None:
        return [_name_of(one, inner) for one in value]
    return feature.int2str(value) if hasattr(feature, "int2str") and isinstance(value, int) else value


def _has_something(row: dict[str, Any]) -> bool:
    """Whether any value of the row is more than white space: an empty line is no row."""
    return any(value is not None and (not isinstance(value, str) or value.strip()) for value in row.values())
