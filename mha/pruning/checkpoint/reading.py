"""Reading files that somebody else may have written: size first, and every failure as an error that names the file."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from mha.values.errors import CheckpointError

LARGEST_DOCUMENT = 256 << 20  # bytes


def check_size_of_document(path: Path) -> None:
    """Refuse a JSON file of more than `LARGEST_DOCUMENT` bytes before it is read into memory.

    Raises:
        CheckpointError: it is larger, which no description of a model is.
        OSError: there is no such file.
    """
    if path.stat().st_size > LARGEST_DOCUMENT:
        raise CheckpointError(f"{path}: larger than {LARGEST_DOCUMENT} bytes, which no description of a model is")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, by name.

    Raises:
        CheckpointError: it is missing, can't be read, or is not in the safetensors format.
    """
    try:
        return load_file(path)
    except Exception as error:  # what safetensors raises differs by release, and where a file vanishes under it
        raise CheckpointError(f"{path}: not in the safetensors format, or unreadable ({error})") from error


def extent(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """(how many numbers these tensors hold together, how many tensors they are)."""
    return sum(tensor.numel() for tensor in tensors.values()), len(tensors)
