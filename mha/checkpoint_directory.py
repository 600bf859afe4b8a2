"""The directory of a checkpoint: two files, replaced as one, and read with suspicion.

`pruned-<sha256>.safetensors` holds the tensors and is named by its own SHA-256, which `pruned.json` repeats.
Replacing `pruned.json` is the one step that switches from an old checkpoint to a new one, so a crash leaves the old
or the new, never half of each.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mha.errors import CheckpointError

FORMAT = "mha.pruned"
VERSION = 1
DOCUMENT = "pruned.json"
LOCK = ".pruned.lock"
EVERY_WEIGHTS = f"pruned-{'[0-9a-f]' * 64}.safetensors"


def write(directory: Path, content: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Replace the checkpoint in the directory, or make the first; other files there are left alone.

    Raises:
        CheckpointError: the directory is a file.
    """
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file; a checkpoint is a directory")
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / LOCK):
        weights = _write_weights(directory, tensors)
        _write_document(directory, {**content, "weights": weights})
        for path in directory.glob(EVERY_WEIGHTS):
            if path != _weights_path(directory, weights):
                path.unlink()


def read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pruned.json` says, and the tensors it names; nothing is returned before it has been checked.

    Raises:
        CheckpointError: the directory is foreign, cut off, damaged, incomplete or of another version.
    """
    while True:
        content = _read_document(directory)
        try:
            return content, _read_weights(_weights_path(directory, content["weights"]), content["weights"])
        except FileNotFoundError as error:
            # Gone, or replaced by another process in the meantime.
            if _read_document(directory)["weights"] == content["weights"]:
                path = _weights_path(directory, content["weights"])
                raise CheckpointError(f"{directory}: {path.name} is missing; copy the whole directory") from error


def _write_weights(directory: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    partial = directory / "pruned.safetensors.partial"
    save_file(tensors, partial)
    weights = {"sha256": _sha256(partial), "size": partial.stat().st_size}
    _publish(partial, _weights_path(directory, weights))
    return weights


def _write_document(directory: Path, content: dict[str, Any]) -> None:
    document = {"format": FORMAT, "version": VERSION, "sha256": _digest(content), **content}
    partial = directory / f"{DOCUMENT}.partial"
    partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    _publish(partial, directory / DOCUMENT)


def _publish(partial: Path, path: Path) -> None:
    """Rename a file that is complete on the disk, not only in memory."""
    with partial.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    if hasattr(os, "O_DIRECTORY"):  # where directories can be synchronised too
        descriptor = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_document(directory: Path) -> dict[str, Any]:
    path = directory / DOCUMENT
    if not path.is_file():
        found = "has no" if directory.is_dir() else "is no directory with a"
        raise CheckpointError(f"{directory} {found} {DOCUMENT}: it was not written by mha.save_pruned")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON, or cut off in the middle ({error})") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CheckpointError(f'{path}: not a pruned model: expected a JSON object with "format": "{FORMAT}"')
    if (version := content.pop("version", None)) != VERSION:
        raise CheckpointError(f"{path}: version {version!r} of the format; this release reads version {VERSION}")
    if content.pop("sha256", None) != _digest(content):
        raise CheckpointError(f"{path}: damaged: its contents are not what was saved (SHA-256 differs)")
    return content


def _read_weights(path: Path, weights: Mapping[str, Any]) -> dict[str, Tensor]:
    if (size := path.stat().st_size) != weights["size"]:
        raise CheckpointError(f"{path}: damaged: expected {weights['size']} bytes, found {size}")
    if _sha256(path) != weights["sha256"]:
        raise CheckpointError(f"{path}: damaged: its contents are not what was saved (SHA-256 differs)")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not in the safetensors format ({error})") from error


def _weights_path(directory: Path, weights: Mapping[str, Any]) -> Path:
    return directory / f"pruned-{weights['sha256']}.safetensors"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
