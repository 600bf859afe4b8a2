"""What a scoring has measured so far, kept in a file: after a kill the same call goes on where it was."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mha.values.documents import Kind
from mha.values.errors import CalibrationError

DOCUMENT = Kind("mha.score journal", 1, "the journal of a scoring", CalibrationError)
EVERY = 5.0  # seconds between writes
CLOSE = 1e-6  # how far the loss of the first batch may be from the one noted down: other threads or another machine
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


class Journal:
    """What has been measured, by keys that say what it is.

    Args:
        path: of the file; None keeps nothing.
        identity: what the measurements depend on. Those of another identity are refused, never mixed.

    Raises:
        CalibrationError: the file is not a journal, or one of another identity.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Mapping[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        self._identity = dict(identity)
        self._measured: dict[str, Any] = {}
        self._written = time.monotonic()
        if self._path is not None and self._path.exists():
            self._measured = self._read(self._path)

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """What was measured under this key; if nothing was, what `compute` returns is noted down and returned.

        Values are what JSON can hold: numbers, lists, and mappings by name.
        """
        if key not in self._measured:
            self.put(key, compute())
        return self._measured[key]

    def __getitem__(self, key: str) -> Any:
        """What was measured under this key.

        Raises:
            KeyError: nothing was.
        """
        return self._measured[key]

    def __contains__(self, key: str) -> bool:
        """Whether anything was measured under this key."""
        return key in self._measured

    def put(self, key: str, value: Any) -> None:
        """Note down what was measured under this key; write the file if the last writing was `EVERY` seconds ago."""
        self._measured[key] = value
        if time.monotonic() - self._written > EVERY:
            self.write()

    def drop(self, keys: Iterable[str]) -> None:
        """Forget what was measured under these keys, in the file too."""
        for key in keys:
            self._measured.pop(key, None)
        self.write()

    @contextmanager
    def open(self) -> Iterator["Journal"]:
        """Yield this journal; at the end of the context, also after an error, all that was measured is in the file."""
        try:
            yield self
        finally:
            self.write()

    def write(self) -> None:
        """Write the file, if there is one."""
        if self._path is not None:
            DOCUMENT.write(self._path, {"of": self._identity, "measured": self._measured}, indent=None)
        self._written = time.monotonic()

    def _read(self, path: Path) -> dict[str, Any]:
        """Key -> what was measured, as the file at this path says.

        Raises:
            CalibrationError: the file can't be read, is not a journal, or is one of another identity.
        """
        document = DOCUMENT.read(path)
        of, measured = document.get("of"), document.get("measured")
        if not isinstance(of, dict) or not isinstance(measured, dict):
            raise CalibrationError(f"{path}: not the journal of a scoring: nothing says what it is of")
        other = [name for name, value in self._identity.items() if not _alike(of.get(name), value)]
        if other or of.keys() != self._identity.keys():
            raise CalibrationError(
                f"{path} is the journal of another scoring: it has another {' and another '.join(other) or 'version'}; "
                "measurements are never mixed: give the same arguments (batches in the same order), or another file"
            )
        return measured


def content_of(value: Any) -> str:
    """The SHA-256 digest, in hexadecimal, of tensors, arrays, numbers and names, in lists, tuples and mappings.

    Raises:
        CalibrationError: there is an object of another type in it, which can't be compared with that of a later call.
    """
    digest = hashlib.sha256()
    for chunk in _chunks(value):
        digest.update(chunk)
    return digest.hexdigest()


def weights_of(model: nn.Module) -> str:
    """A digest, as of `content_of`, of the names and classes of the model's modules, its parameters and its buffers."""
    kinds = {name: f"{type(module).__module__}.{type(module).__qualname__}" for name, module in model.named_modules()}
    return content_of([kinds, dict(model.named_parameters()), dict(model.named_buffers())])


def name_of(function: Callable[..., Any] | None) -> str:
    """Module and qualified name of a function, joined by a dot: all that can be compared with that of a later call."""
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _chunks(value: Any) -> Iterator[bytes]:
    """Yield the bytes that `content_of` digests: of each thing in the value its type or dtype, its shape, its content.

    Raises:
        CalibrationError: there is an object in it that is no tensor, array, number, name, list, tuple or mapping.
    """
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        yield f"{value.dtype} {tuple(value.shape)};".encode()
        yield array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b""
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype} {value.shape};".encode()
        yield value.tobytes()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)};".encode()
        for key, item in value.items():
            yield from _chunks(key)
            yield from _chunks(item)
    elif isinstance(value, tuple | list):
        yield f"sequence {len(value)};".encode()
        for item in value:
            yield from _chunks(item)
    elif isinstance(value, PLAIN):
        yield f"{type(value).__name__} {value!r};".encode()
    else:
        raise CalibrationError(
            f"journal: a {type(value).__name__} in the batches or options can't be compared with that of a later call; "
            "it takes tensors, arrays, numbers and strings, in lists, tuples and mappings"
        )


def _alike(noted: Any, now: Any) -> bool:
    """Whether an entry of the journal's identity equals that of this call; floats may differ by `CLOSE`, relatively."""
    if isinstance(noted, float) and isinstance(now, float):
        return math.isclose(noted, now, rel_tol=CLOSE)
    return bool(noted == now)
