"""Tables of one number per head, layer by layer: how they are checked, averaged and compared."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mha.values.errors import ScoresError

Rows = Mapping[str, Tensor]

ASYMMETRY = 1e-3  # of an entry: what half precision may round


def weighted(first: Rows, second: Rows, counts: tuple[int, int]) -> dict[str, Tensor]:
    """Two tables of means as one: the means over the examples of both together.

    Args:
        first, second: layer -> means, (h,) or (h, h), of the same layers.
        counts: how many examples the first table is the mean over, and how many the second.
    """
    total = max(sum(counts), 1)
    return {name: (row * counts[0] + second[name] * counts[1]) / total for name, row in first.items()}


def equal(first: Rows | None, second: Rows | None) -> bool:
    """Whether two tables hold exactly the same numbers; None equals None only. Both must be of the same layers."""
    if first is None or second is None:
        return first is second
    return all(torch.equal(row, second[name]) for name, row in first.items())


def checked_scores(name: object, row: Any) -> Tensor:
    """A layer's scores, copied to a tensor (h,) in float64 on the CPU.

    Raises:
        ScoresError: the name is no string, or the scores are not numbers of shape (h,).
    """
    if not isinstance(name, str):
        raise ScoresError(f"layer names are strings, got {name!r}")
    values = _as_tensor(row, f"layer {name!r}")
    if values.dim() != 1:
        raise ScoresError(f"layer {name!r}: expected one score per head, shape (h,), got {tuple(values.shape)}")
    return values.clone()


def check_finite(name: str, row: Tensor, heads: tuple[int, ...]) -> None:
    """Refuse scores that can't be ranked.

    Args:
        heads: the original number of each entry, for the message.

    Raises:
        ScoresError: NaN or infinite scores.
    """
    if wrong := [head for head, value in zip(heads, row.tolist(), strict=True) if not math.isfinite(value)]:
        raise ScoresError(
            f"layer {name!r}: the scores of heads {wrong} are NaN or infinite and cannot be ranked; "
            "look for NaN in the calibration data or in the model's loss"
        )


def checked_groups(name: str, count: int, groups: int | None) -> int:
    """How many key/value groups the layer's `count` heads form: `groups`, or `count` where that is None.

    Raises:
        ScoresError: `groups` is no whole number, does not divide the heads, or one of the two is 0 and the other not.
    """
    if groups is None:
        return count
    if not _is_whole(groups) or (groups == 0) != (count == 0) or (groups and count % groups):
        raise ScoresError(f"layer {name!r}: {count} heads do not divide into {groups!r} key/value groups")
    return int(groups)


def checked_heads(name: str, count: int, heads: Sequence[int] | None) -> tuple[int, ...]:
    """The original number of each of the layer's `count` heads; 0, 1, 2, … where `heads` is None.

    Raises:
        ScoresError: they are not `count` distinct whole numbers.
    """
    if heads is None:
        return tuple(range(count))
    numbers = [int(head) for head in heads if _is_whole(head)]
    if len(numbers) != len(heads) or len(numbers) != count or len(set(numbers)) != count:
        raise ScoresError(f"layer {name!r}: {count} scores need {count} distinct head numbers, got {list(heads)}")
    return tuple(numbers)


def checked_examples(examples: int | None) -> int | None:
    """The number of examples that scores are the mean over, checked; None for scores that are no such mean.

    Raises:
        ScoresError: it is neither None nor a whole number above 0.
    """
    if examples is None:
        return None
    if not _is_whole(examples) or int(examples) < 1:
        raise ScoresError(f"examples is how many examples the scores are the mean over, 1 or more, got {examples!r}")
    return int(examples)


def checked_interactions(interactions: Rows | None, scores: Rows) -> Rows | None:
    """The interactions of every layer that has scores, as (h, h) in float64; None where `interactions` is None.

    Raises:
        ScoresError: those of a layer with scores are missing, not of shape (h, h), not finite, or differ from their
            transpose by more than a thousandth of the layer's largest.
    """
    checked = _checked_extra(interactions, scores, "interactions", lambda count: (count, count))
    for name, values in (checked or {}).items():
        if not torch.allclose(
            values, values.mT, rtol=0, atol=ASYMMETRY * values.abs().amax().item() if len(values) else 0
        ):
            raise ScoresError(
                f"layer {name!r}: interactions are symmetric, what heads i and j cost together is no different from j "
                "and i; give (M + M.T) / 2"
            )
    return checked


def checked_errors(errors: Rows | None, scores: Rows) -> Rows | None:
    """The standard errors of the scores of every layer that has some, (h,) in float64; None where `errors` is None.

    Raises:
        ScoresError: those of a layer with scores are missing, not of shape (h,), not finite, or negative.
    """
    checked = _checked_extra(errors, scores, "errors", lambda count: (count,))
    for name, values in (checked or {}).items():
        if (values < 0).any():
            raise ScoresError(f"layer {name!r}: standard errors are not negative, got {values.tolist()}")
    return checked


def _checked_extra(table: Rows | None, scores: Rows, what: str, shape: Callable[[int], tuple[int, ...]]) -> Rows | None:
    """A table that goes with scores, as float64 tensors for the layers that have scores; None where `table` is None.

    Entries for other layers are left out.

    Args:
        scores: layer -> (h,).
        what: what errors call the entries.
        shape: returns the shape that a layer's entry must have, given the layer's number of heads.

    Raises:
        ScoresError: a layer is missing, or its entry has another shape or is not finite.
    """
    if table is None:
        return None
    checked = {}
    for name, row in scores.items():
        if name not in table:
            raise ScoresError(f"layer {name!r} has scores but no {what}; give those of every layer, or none")
        values = _as_tensor(table[name], f"layer {name!r}: {what}").clone()
        if tuple(values.shape) != shape(len(row)) or not values.isfinite().all():
            raise ScoresError(
                f"layer {name!r}: {what} of {len(row)} heads are finite numbers of shape {shape(len(row))}, "
                f"got shape {tuple(values.shape)}{'' if values.isfinite().all() else ' with NaN or infinity'}"
            )
        checked[name] = values
    return MappingProxyType(checked)


def _as_tensor(values: Any, where: str) -> Tensor:
    """The values as a tensor in float64 on the CPU, without a graph.

    Raises:
        ScoresError: they are no numbers; the message begins with `where`.
    """
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(values, dtype=torch.float64)
        return tensor.detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ScoresError(f"{where}: expected a tensor of numbers, got {type(values).__name__} ({error})") from error


def _is_whole(value: object) -> bool:
    """Whether the value is a whole number, 0 or more; True and False do not count as numbers."""
    return not isinstance(value, bool) and hasattr(value, "__index__") and int(value) >= 0
