"""Whether examples that a model is judged by were also used for calibration, by what is in them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mha.runtime.nests import is_named_tuple, leaves
from mha.values.errors import CalibrationError

CONTAINERS = (tuple, list, Mapping)
SHOWN = 5  # examples that an error names
MASK = "attention_mask"


def check_apart(judged: Iterable[Any], calibration: Iterable[Any]) -> None:
    """Refuse to judge by examples that the calibration set has too.

    An example is known by its row of the largest tensor of its batch: its tokens, its image, whatever labels or
    lengths stand beside. Where the batch has an attention mask, only tokens that it shows count, so that another
    padding makes no other example.

    Args:
        judged, calibration: batches.

    Raises:
        CalibrationError: examples that are in both, by number.
    """
    used = set(_examples(calibration))
    judged_rows = list(_examples(judged))
    if both := [number for number, row in enumerate(judged_rows) if row in used]:
        more = ", …" if len(both) > SHOWN else ""
        raise CalibrationError(
            f"{len(both)} of the {len(judged_rows)} examples to judge by are in the calibration set too (examples "
            f"{', '.join(map(str, both[:SHOWN]))}{more}); what they show is too good: divide the data first, and give "
            "the judge the part that calibration has not seen"
        )


def _examples(batches: Iterable[Any]) -> Iterator[bytes]:
    """A digest of every example, in order. Batches without tensors are left out: nothing is known about them."""
    for batch in batches:
        rows, mask = _largest(batch)
        if rows is None:
            continue
        shown = mask.bool() if mask is not None and mask.shape == rows.shape[: mask.dim()] else None
        for number, row in enumerate(_plain(rows)):
            yield _digest(row if shown is None else row[shown[number]])


def _largest(batch: Any) -> tuple[Tensor | None, Tensor | None]:
    """The tensor of the batch with the most numbers that is not its attention mask; and that mask, if it has one."""
    named = batch._asdict() if is_named_tuple(batch) else batch
    found = {path: leaf for path, leaf in leaves(named, CONTAINERS) if isinstance(leaf, Tensor) and leaf.dim()}
    masks = [tensor for path, tensor in found.items() if MASK in path]
    others = [tensor for path, tensor in found.items() if MASK not in path]
    return max(others, key=Tensor.numel, default=None), (masks[0] if masks else None)


def _plain(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, as int64 or float64, in which equal numbers have equal bytes."""
    plain = tensor.detach().cpu()
    return (plain.double() + 0.0 if plain.is_floating_point() else plain.to(torch.int64)).contiguous()


def _digest(row: Tensor) -> bytes:
    """A hash of the numbers in the row."""
    return hashlib.blake2b(row.contiguous().numpy().tobytes(), digest_size=16).digest()
