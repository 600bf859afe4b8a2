"""One file for each finished or failed case, which appears whole or not at all; and the lock on their directory."""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout
from torch import Tensor

from bench.measure.files import locked, write_json

SCHEMA = 1
OK, FAILED = "ok", "failed"


class RunError(Exception):
    """The run directory, or the page for the results, can't be used; the message says why."""


@contextmanager
def opened(directory: Path) -> Iterator[None]:
    """Make a run's directory with its folder `cases`; within the context this process alone works in it.

    Raises:
        RunError: another process works in the directory, or it can't be written.
    """
    with ExitStack() as stack:
        try:
            (directory / "cases").mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(directory))
        except Timeout:
            raise RunError(
                f"{directory}: another process is at work in it; wait for it, or give another --run"
            ) from None
        except OSError as error:
            raise RunError(f"{directory} can't be written ({error}); give another --run") from error
        yield


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """Read the records of a run: case id -> record.

    Files that are no JSON, such as those cut off by copying, are left out, and so are those of another schema.
    """
    records = {}
    for path in sorted((directory / "cases").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("schema") == SCHEMA:
            records[path.stem] = record
    return records


def write(directory: Path, case: Mapping[str, Any]) -> None:
    """Write the record of a case, which holds its id, status, error and results, to DIRECTORY/cases/ID.json."""
    write_json(directory / "cases" / f"{case['id']}.json", {"schema": SCHEMA, **case})


def pack(values: Tensor) -> dict[str, Any]:
    """The values, rounded to float32, as a mapping that JSON can hold: `shape`, and `f4`, text that `unpack` reads."""
    array = values.numpy().astype("<f4")
    return {"shape": list(array.shape), "f4": base64.b64encode(zlib.compress(array.tobytes(), 6)).decode()}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """The numbers that `pack` has packed, as a float64 array of the same shape."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(packed["f4"])), dtype="<f4")
    return flat.reshape(packed["shape"]).astype(np.float64)
