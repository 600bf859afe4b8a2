"""Plain values about heads, keyed by layer name and ORIGINAL head number.

A plan can be printed, saved, compared and tested without a model; so can scores.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from torch import Tensor, nn

from mha.values.documents import Kind
from mha.values.errors import PlanError
from mha.values.scores import HeadScores, Spent

__all__ = ["HeadPlan", "HeadScores", "Lineage", "Spent", "lineage_of", "set_lineage"]

DOCUMENT = Kind("mha.HeadPlan", 1, "a plan", PlanError)


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which of its original heads, and key/value groups, a module still has.

    Attributes:
        heads, groups: their original numbers; the index of a number is the position of that head, or group, now.
        total_heads, total_groups: how many the module was made with.
    """

    heads: tuple[int, ...]
    total_heads: int
    groups: tuple[int, ...]
    total_groups: int


_LINEAGE = "_mha_lineage"
_CORE_LINEAGE = "_mha_core_lineage"


def lineage_of(module: nn.Module) -> Lineage | None:
    """The module's lineage; None where no plan that was applied to its model has named it."""
    return getattr(module, _LINEAGE, None)


def set_lineage(module: nn.Module, lineage: Lineage, core: nn.Module | None = None) -> None:
    """Remember a module's lineage on the module, for `lineage_of`, and on its core, for `core_lineage`.

    Copies of the module remember it too.

    Args:
        core: the submodule that computes attention; None where that is the module itself.
    """
    setattr(module, _LINEAGE, lineage)
    setattr(module if core is None else core, _CORE_LINEAGE, lineage)


def core_lineage(core: nn.Module) -> Lineage | None:
    """The lineage of the attention module whose core this is; None where no plan that was applied has named that."""
    return getattr(core, _CORE_LINEAGE, None)


class HeadPlan(Mapping[str, tuple[int, ...]]):
    """The heads to KEEP in each layer, by original number (transformers' `prune_heads` was given those to remove).

    `()` keeps none. A layer that the plan does not name stays whole. The order of heads does not matter: they are
    sorted. A plan is a mapping of layer names to heads, and never changes. It equals only plans that keep the same;
    compare `dict(plan)` with a dictionary.

    Example:
        >>> plan = mha.HeadPlan({"encoder.0": [3, 0], "encoder.1": ()})
        >>> plan
        HeadPlan({'encoder.0': (0, 3), 'encoder.1': ()})
        >>> plan["encoder.0"], len(plan), "encoder.2" in plan
        ((0, 3), 2, False)
        >>> plan.to_json("plan.json")
        >>> mha.HeadPlan.from_json("plan.json") == plan
        True

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
        """Layer name -> original numbers of the heads that it keeps, ascending."""
        return self._keep

    def __getitem__(self, layer: str) -> tuple[int, ...]:
        return self._keep[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keep)

    def __len__(self) -> int:
        """How many layers the plan names."""
        return len(self._keep)

    def __eq__(self, other: object) -> bool:
        return self._keep == other._keep if isinstance(other, HeadPlan) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._keep.items()))

    def __repr__(self) -> str:
        return f"HeadPlan({dict(self._keep)})"

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, tuple[int, ...]]]]:
        return type(self), (dict(self._keep),)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to `path` as JSON; the file appears whole or not at all."""
        DOCUMENT.write(path, {"keep": dict(self._keep)}, indent=2)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan that `to_json` wrote.

        Raises:
            PlanError: the file can't be read, is no plan (by its "format") or one cut off, has values that the class
                refuses, or is of another version of the format.
        """
        document = DOCUMENT.read(path)
        try:
            return cls(document.get("keep"))  # type: ignore[arg-type]  # the constructor checks it
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error


def _sorted_heads(name: object, heads: Any) -> tuple[int, ...]:
    """The heads of one layer, in ascending order.

    Raises:
        PlanError: the name is no string, or the heads are not distinct whole numbers.
    """
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
