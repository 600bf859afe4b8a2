"""One number per head, layer by layer: what is refused, and how two such tables add and compare."""

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
    total = max(sum(counts), 1)
    return {name: (row * counts[0] + second[name] * counts[1]) / total for name, row in first.items()}


def equal(first: Rows | None, second: Rows | None) -> bool:
    if first is None or second is None:
        return first is second
    return all(torch.equal(row, second[name]) for name, row in first.items())


def checked_scores(name: object, row: Any) -> Tensor:
    if not isinstance(name, str):
        raise ScoresError(f"layer names are strings, got {name!r}")
    values = _as_tensor(row, f"layer {name!r}")
    if values.dim() != 1:
        raise ScoresError(f"layer {name!r}: expected one score per head, shape (h,), got {tuple(values.shape)}")
    return values.clone()


def check_finite(name: str, row: Tensor, ids: tuple[int, ...]) -> None:
    if wrong := [head for head, value in zip(ids, row.tolist(), strict=True) if not math.isfinite(value)]:
        raise ScoresError(
            f"layer {name!r}: the scores of heads {wrong} are NaN or infinite and cannot be ranked; "
            "look for NaN in the calibration data or in the model's loss"
        )


def checked_groups(name: str, heads: int, groups: int | None) -> int:
    if groups is None:
        return heads
    if not _is_whole(groups) or (groups == 0) != (heads == 0) or (groups and heads % groups):
        raise ScoresError(f"layer {name!r}: {heads} heads do not divide into {groups!r} key/value groups")
    return int(groups)


def checked_ids(name: str, count: int, ids: Sequence[int] | None) -> tuple[int, ...]:
    if ids is None:
        return tuple(range(count))
    numbers = [int(head) for head in ids if _is_whole(head)]
    if len(numbers) != len(ids) or len(numbers) != count or len(set(numbers)) != count:
        raise ScoresError(f"layer {name!r}: {count} scores need {count} distinct head numbers, got {list(ids)}")
    return tuple(numbers)


def checked_examples(examples: int | None) -> int | None:
    if examples is None:
        return None
    if not _is_whole(examples) or int(examples) < 1:
        raise ScoresError(f"examples is how many examples the scores are the mean over, 1 or more, got {examples!r}")
    return int(examples)


def checked_interactions(given: Rows | None, rows: Rows) -> Rows | None:
    """(h, h), symmetric but for rounding, for every layer."""
    checked = _checked_extra(given, rows, "interactions", lambda heads: (heads, heads))
    for name, values in (checked or {}).items():
        if not torch.allclose(
            values, values.mT, rtol=0, atol=ASYMMETRY * values.abs().amax().item() if len(values) else 0
        ):
            raise ScoresError(
                f"layer {name!r}: interactions are symmetric, what heads i and j cost together is no different from j "
                "and i; give (M + M.T) / 2"
            )
    return checked


def checked_errors(given: Rows | None, rows: Rows) -> Rows | None:
    """(h,), none negative, for every layer."""
    checked = _checked_extra(given, rows, "errors", lambda heads: (heads,))
    for name, values in (checked or {}).items():
        if (values < 0).any():
            raise ScoresError(f"layer {name!r}: standard errors are not negative, got {values.tolist()}")
    return checked


def _checked_extra(given: Rows | None, rows: Rows, what: str, shape: Callable[[int], tuple[int, ...]]) -> Rows | None:
    if given is None:
        return None
    checked = {}
    for name, row in rows.items():
        if name not in given:
            raise ScoresError(f"layer {name!r} has scores but no {what}; give those of every layer, or none")
        values = _as_tensor(given[name], f"layer {name!r}: {what}").clone()
        if tuple(values.shape) != shape(len(row)) or not values.isfinite().all():
            raise ScoresError(
                f"layer {name!r}: {what} of {len(row)} heads are finite numbers of shape {shape(len(row))}, "
                f"got shape {tuple(values.shape)}{'' if values.isfinite().all() else ' with NaN or infinity'}"
            )
        checked[name] = values
    return MappingProxyType(checked)


def _as_tensor(given: Any, where: str) -> Tensor:
    """float64 on the CPU, without a graph."""
    try:
        return torch.as_tensor(given).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ScoresError(f"{where}: expected a tensor of numbers, got {type(given).__name__} ({error})") from error


def _is_whole(value: object) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__") and int(value) >= 0
