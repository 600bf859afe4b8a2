"""Plain values about heads, keyed by layer name and ORIGINAL head number.

A plan can be printed, saved, compared and tested without a model; so can scores.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from mha.errors import PlanError, ScoresError
from mha.files import appears_whole

if TYPE_CHECKING:
    import pandas as pd

PLAN_FORMAT = "mha.HeadPlan"
PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which of its original heads, and key/value groups, a module still has."""

    heads: tuple[int, ...]
    total_heads: int
    groups: tuple[int, ...]
    total_groups: int


_LINEAGE = "_mha_lineage"


def lineage_of(module: nn.Module) -> Lineage | None:
    """The module's lineage, or None where no plan has named it yet."""
    return getattr(module, _LINEAGE, None)


def set_lineage(module: nn.Module, lineage: Lineage) -> None:
    """Remember on the module which original heads are left; travels with deepcopy."""
    setattr(module, _LINEAGE, lineage)


class HeadPlan:
    """Which heads each named layer keeps, by original number; `()` keeps none.

    A layer that the plan does not name stays whole. Order does not matter: heads are kept sorted.

    Raises:
        PlanError: not a mapping of layer names to sequences of distinct, non-negative integers.
    """

    __slots__ = ("_keep",)

    def __init__(self, keep: Mapping[str, Sequence[int]]) -> None:
        if not isinstance(keep, Mapping):
            raise PlanError(f"expected a mapping of layer name to heads, got {type(keep).__name__}")
        self._keep = MappingProxyType({name: _sorted_heads(name, heads) for name, heads in keep.items()})

    @property
    def keep(self) -> Mapping[str, tuple[int, ...]]:
        return self._keep

    def __eq__(self, other: object) -> bool:
        return self._keep == other._keep if isinstance(other, HeadPlan) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._keep.items()))

    def __repr__(self) -> str:
        return f"HeadPlan({dict(self._keep)})"

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, tuple[int, ...]]]]:
        return type(self), (dict(self._keep),)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the plan; the file appears whole or not at all."""
        document = {"format": PLAN_FORMAT, "version": PLAN_VERSION, "keep": dict(self._keep)}
        with appears_whole(path) as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan that `to_json` wrote.

        Raises:
            PlanError: the file is cut off, foreign, or of a newer version.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise PlanError(f"{path}: not a plan, or cut off in the middle ({error})") from error
        if not isinstance(document, dict) or document.get("format") != PLAN_FORMAT:
            raise PlanError(f'{path}: not a plan: expected a JSON object with "format": "{PLAN_FORMAT}"')
        if document.get("version") != PLAN_VERSION:
            raise PlanError(
                f"{path}: version {document.get('version')!r} of the plan format; "
                f"this release reads version {PLAN_VERSION}"
            )
        try:
            return cls(document.get("keep"))  # type: ignore[arg-type]  # the constructor checks it
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error


class HeadScores:
    """One importance per head; larger = keep.

    Args:
        scores: layer name -> (h,), one finite number per query head.
        groups: layer name -> number of key/value groups; as many as heads where not named.
        heads: layer name -> original number of each entry; 0, 1, 2, … where not named. A model that
            has been pruned before needs it.

    Raises:
        ScoresError: NaN or infinite scores, a wrong shape, or groups that do not divide the heads.
    """

    __slots__ = ("_groups", "_heads", "_scores")

    def __init__(
        self,
        scores: Mapping[str, Tensor],
        groups: Mapping[str, int] | None = None,
        *,
        heads: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        if not isinstance(scores, Mapping):
            raise ScoresError(f"expected a mapping of layer name to scores, got {type(scores).__name__}")
        self._scores = MappingProxyType({name: _checked_scores(name, row) for name, row in scores.items()})
        for given, what in ((groups, "groups"), (heads, "heads")):
            if unknown := set(given or ()) - set(self._scores):
                raise ScoresError(f"{what} names layers without scores: {sorted(unknown)}")
        self._groups = MappingProxyType(
            {name: _checked_groups(name, len(row), (groups or {}).get(name)) for name, row in self._scores.items()}
        )
        self._heads = MappingProxyType(
            {name: _checked_ids(name, len(row), (heads or {}).get(name)) for name, row in self._scores.items()}
        )
        for name, row in self._scores.items():
            _check_finite(name, row, self._heads[name])

    @property
    def scores(self) -> Mapping[str, Tensor]:
        """Layer name -> (h,), float64 on the CPU."""
        return self._scores

    @property
    def groups(self) -> Mapping[str, int]:
        """Layer name -> number of key/value groups."""
        return self._groups

    @property
    def heads(self) -> Mapping[str, tuple[int, ...]]:
        """Layer name -> original head number of each score."""
        return self._heads

    def __len__(self) -> int:
        """How many heads are scored."""
        return sum(len(row) for row in self._scores.values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HeadScores):
            return NotImplemented
        same_layout = self._groups == other._groups and self._heads == other._heads
        return same_layout and all(torch.equal(row, other._scores[name]) for name, row in self._scores.items())

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), heads=dict(self._heads)), (dict(self._scores), dict(self._groups))

    def __repr__(self) -> str:
        rows = ", ".join(f"{name!r}: {[round(x, 6) for x in row.tolist()]}" for name, row in self._scores.items())
        return f"HeadScores({{{rows}}})"

    def to_frame(self) -> "pd.DataFrame":
        """A tidy frame: layer, head, score."""
        import pandas as pd

        rows = [
            (name, head, value)
            for name, row in self._scores.items()
            for head, value in zip(self._heads[name], row.tolist(), strict=True)
        ]
        return pd.DataFrame(rows, columns=["layer", "head", "score"])


def _sorted_heads(name: object, heads: Any) -> tuple[int, ...]:
    if not isinstance(name, str):
        raise PlanError(f"layer names are strings, got {name!r}")
    if isinstance(heads, Tensor) and heads.dim() > 0:
        heads = heads.tolist()
    if isinstance(heads, str | bytes) or not isinstance(heads, Sequence):
        raise PlanError(
            f"layer {name!r}: expected a sequence of head numbers, got {heads!r}; () keeps no head, "
            "and a layer that stays whole is left out of the plan"
        )
    numbers = list(heads)
    wrong = [head for head in numbers if isinstance(head, bool) or not hasattr(head, "__index__")]
    if wrong or any(int(head) < 0 for head in numbers):
        raise PlanError(f"layer {name!r}: heads are numbered from 0 by integers, got {numbers}")
    kept = tuple(sorted(int(head) for head in numbers))
    if len(set(kept)) != len(kept):
        twice = sorted({head for head in kept if kept.count(head) > 1})
        raise PlanError(f"layer {name!r}: heads {twice} are named more than once; name each head once")
    return kept


def _checked_scores(name: object, row: Any) -> Tensor:
    if not isinstance(name, str):
        raise ScoresError(f"layer names are strings, got {name!r}")
    values = torch.as_tensor(row).detach().to("cpu", torch.float64)
    if values.dim() != 1:
        raise ScoresError(f"layer {name!r}: expected one score per head, shape (h,), got {tuple(values.shape)}")
    return values.clone()


def _check_finite(name: str, row: Tensor, ids: tuple[int, ...]) -> None:
    if wrong := [head for head, value in zip(ids, row.tolist(), strict=True) if not math.isfinite(value)]:
        raise ScoresError(
            f"layer {name!r}: the scores of heads {wrong} are NaN or infinite and cannot be ranked; "
            "look for NaN in the calibration data or in the model's loss"
        )


def _checked_groups(name: str, heads: int, groups: int | None) -> int:
    if groups is None:
        return heads
    if groups < 0 or (groups == 0) != (heads == 0) or (groups and heads % groups):
        raise ScoresError(f"layer {name!r}: {heads} heads do not divide into {groups} key/value groups")
    return groups


def _checked_ids(name: str, count: int, ids: Sequence[int] | None) -> tuple[int, ...]:
    if ids is None:
        return tuple(range(count))
    if len(ids) != count or len(set(ids)) != count:
        raise ScoresError(f"layer {name!r}: {count} scores need {count} distinct head numbers, got {list(ids)}")
    return tuple(int(head) for head in ids)
