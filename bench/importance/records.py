"""One file for each finished or failed case, which appears whole or not at all; and the lock on their directory."""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from mha.values.atomic_files import appears_whole

SCHEMA = 1
OK, FAILED = "ok", "failed"


class RunError(Exception):
    """A run directory that can't be used; says why."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Within the context this process is the only one that works in the directory.

    Raises:
        RunError: another does, or the directory can't be written.
    """
    lock = FileLock(directory / ".lock")
    try:
        (directory / "cases").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{directory}: another process is at work in it; wait for it, or give another --run") from None
    except OSError as error:
        raise RunError(f"{directory} can't be written ({error}); give another --run") from error
    try:
        yield
    finally:
        lock.release()


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """Case id -> record, of all that can be read; a file that was cut off by copying counts as not there."""
    found = {}
    for path in sorted((directory / "cases").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("schema") == SCHEMA:
            found[path.stem] = record
    return found


def write(directory: Path, case: Mapping[str, Any]) -> None:
    """Write the record of a case; it has its id, status and error, and what it found."""
    write_json(directory / "cases" / f"{case['id']}.json", {"schema": SCHEMA, **case})


def write_json(path: Path, document: Any, indent: int | None = None) -> None:
    text = json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=False)
    with appears_whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def pack(values: Tensor) -> dict[str, Any]:
    """Numbers for JSON, as float32."""
    array = values.numpy().astype("<f4")
    return {"shape": list(array.shape), "f4": base64.b64encode(zlib.compress(array.tobytes(), 6)).decode()}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """What was packed, as float64."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(packed["f4"])), dtype="<f4")
    return flat.reshape(packed["shape"]).astype(np.float64)
