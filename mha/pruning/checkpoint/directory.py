"""The directory of a checkpoint: two files, which are replaced as one, and checked as they are read.

`pruned-<sha256>.safetensors` holds the tensors and is named by its own SHA-256, which `pruned.json` repeats.
Replacing `pruned.json` is the one step that switches from an old checkpoint to a new one, so a crash leaves the old
or the new, never half of each.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mha.pruning.checkpoint.document import check_content
from mha.pruning.checkpoint.reading import check_size_of_document, read_tensors
from mha.values.errors import CheckpointError

FORMAT = "mha.pruned"
VERSION = 1
DOCUMENT = "pruned.json"
LOCK = ".pruned.lock"
EVERY_WORKPLACE = f".pruned-{'[0-9a-f]' * 16}.partial"
WRITTEN_BY_OTHERS = {  # file -> how to read the directory that it is in
    "config.json": "mha.from_pretrained reads what transformers saved",
    "adapter_config.json": (
        "it holds an adapter, which goes over the model that it was trained on: peft.PeftModel.from_pretrained(model, "
        "directory)"
    ),
}
OLDER_PARTIALS = ("pruned.json.partial", "pruned.safetensors.partial")
EVERY_WEIGHTS = f"pruned-{'[0-9a-f]' * 64}.safetensors"


def write(directory: Path, content: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Replace the checkpoint in the directory, or make the first; other files there are left alone.

    Args:
        content: what `pruned.json` says of the model, as `document.check_content` asks for it, but for "weights".
        tensors: name -> tensor; no two of them share memory.

    Raises:
        CheckpointError: the directory is a file, its lock is a link, or something can't be written; then what was there
            before is there still.
    """
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file; a checkpoint is a directory")
    if (directory / LOCK).is_symlink():
        raise CheckpointError(f"{directory / LOCK} is a link, which a lock must not be; remove it")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / LOCK):
            _clear_leftovers(directory)
            with _workplace(directory) as workplace:
                weights = _write_weights(directory, workplace, tensors)
                _write_document(directory, workplace, {**content, "weights": weights})
            for path in directory.glob(EVERY_WEIGHTS):
                if path != _weights_path(directory, weights):
                    path.unlink()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory}: the checkpoint can't be written ({error}); one that was there before is whole"
        ) from error


def read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pruned.json` says, and the tensors it names; nothing is returned before it has been checked.

    Where another process replaces the checkpoint in the meantime, it is read again.

    Returns:
        (field of `pruned.json` -> value, without format, version and digest; name -> tensor).

    Raises:
        CheckpointError: there is no `pruned.json`, or it is cut off, altered, of another version, or lacks a field; or
            the weights file is missing, or not the one that was saved.
    """
    unchanged = 0
    while True:
        content = _read_document(directory)
        try:
            return content, _read_weights(_weights_path(directory, content["weights"]), content["weights"])
        except CheckpointError as error:
            unchanged += _read_document(directory)["weights"] == content["weights"]
            vanishing = error.__cause__ is not None and unchanged < 3  # it may have been replaced and put back
            if unchanged and not vanishing:
                raise


@contextmanager
def _workplace(directory: Path) -> Iterator[Path]:
    """Within the `with` block, a new directory inside this one, for its user alone; afterwards it is removed."""
    workplace = directory / f".pruned-{os.urandom(8).hex()}.partial"
    workplace.mkdir(mode=0o700)
    try:
        yield workplace
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _clear_leftovers(directory: Path) -> None:
    """Remove files that were left behind when saving was killed, in this release or an older one.

    The caller holds the lock, so that nobody saves meanwhile.
    """
    for path in directory.glob(EVERY_WORKPLACE):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
    for path in (directory / name for name in OLDER_PARTIALS):
        if path.is_symlink() or path.exists():
            path.unlink()


def _write_weights(directory: Path, workplace: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write the file of tensors in the workplace, then give it its final name in the directory.

    Returns:
        {"sha256": in hexadecimal, "size": in bytes} of the file, for the document.
    """
    partial = workplace / "weights"
    save_file(tensors, partial)
    weights = {"sha256": _sha256(partial), "size": partial.stat().st_size}
    _publish(partial, _weights_path(directory, weights))
    return weights


def _write_document(directory: Path, workplace: Path, content: dict[str, Any]) -> None:
    """Write `pruned.json` in the workplace, then give it its final name in the directory.

    From then on, the directory holds the new checkpoint in place of the old. Format, version and the digest of the
    content are written before the content.
    """
    document = {"format": FORMAT, "version": VERSION, "sha256": _digest(content), **content}
    partial = workplace / DOCUMENT
    partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    _publish(partial, directory / DOCUMENT)


def _publish(partial: Path, path: Path) -> None:
    """Move the file `partial` to `path` in one step, once it is complete on the disk and not only in memory."""
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
    """The checked content of `pruned.json`, without its format, version and digest.

    Raises:
        CheckpointError: the file is not there, too large, not JSON, of another format or version, altered (its digest
            differs), or a field is missing or has another form than `document.check_content` asks for.
    """
    path = directory / DOCUMENT
    if not path.is_file():
        lacks = "has no" if directory.is_dir() else "is no directory with a"
        others = {name: hint for name, hint in WRITTEN_BY_OTHERS.items() if (directory / name).is_file()}
        hint = "".join(f"; {hint}" for hint in others.values())
        raise CheckpointError(f"{directory} {lacks} {DOCUMENT}: it was not written by mha.save_pruned{hint}")
    check_size_of_document(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON, or cut off in the middle ({error})") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CheckpointError(f'{path}: not a pruned model: expected a JSON object with "format": "{FORMAT}"')
    if (version := content.pop("version", None)) != VERSION or isinstance(version, bool):
        raise CheckpointError(f"{path}: version {version!r} of the format; this release reads version {VERSION}")
    if content.pop("sha256", None) != _digest(content):
        raise CheckpointError(f"{path}: damaged: its contents are not what was saved (SHA-256 differs)")
    try:
        check_content(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return content


def _read_weights(path: Path, weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the weights file by name, once its size and SHA-256 are found to be those in the document.

    Args:
        weights: "sha256" and "size" of the file, as the document says them.

    Raises:
        CheckpointError: they are not, or the file is missing or can't be read.
    """
    try:
        if (size := path.stat().st_size) != weights["size"]:
            raise CheckpointError(f"{path}: damaged: expected {weights['size']} bytes, found {size}")
        if _sha256(path) != weights["sha256"]:
            raise CheckpointError(f"{path}: damaged: its contents are not what was saved (SHA-256 differs)")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent}: {path.name} is missing; copy the whole directory") from error
    except OSError as error:
        raise CheckpointError(f"{path}: not in the safetensors format, or unreadable ({error})") from error
    return read_tensors(path)


def _weights_path(directory: Path, weights: Mapping[str, Any]) -> Path:
    """The path of the weights file, given the document's entry "weights", whose "sha256" is part of the file's name."""
    return directory / f"pruned-{weights['sha256']}.safetensors"


def _sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    """The SHA-256 of the document's content as JSON, in hexadecimal; format, version and digest are no part of it."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
