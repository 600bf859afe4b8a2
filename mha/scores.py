"""How much each head matters, as a value: what it is the mean over, how sure it is, and what it cost to find out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mha.errors import ScoresError

if TYPE_CHECKING:
    import pandas as pd

Rows = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Spent:
    """What scoring took.

    Attributes:
        forward, backward: runs of the model over one batch; one that starts halfway counts its share.
        seconds: of the wall clock.
    """

    forward: float = 0
    backward: float = 0
    seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.forward + other.forward, self.backward + other.backward, self.seconds + other.seconds)


class HeadScores:
    """One importance per head; larger = keep.

    Scores that are means over examples can be computed on shards of the calibration set and added: `a + b` is then
    the score of both shards together, each weighted by its examples.

    Args:
        scores: layer name -> (h,), one finite number per query head.
        groups: layer name -> number of key/value groups; as many as heads where not named.
        heads: layer name -> original number of each entry; 0, 1, 2, … where not named. A model that
            has been pruned before needs it.
        examples: how many examples the scores are the mean over; None for scores that do not add.
        interactions: layer name -> symmetric M (h, h), where removing the set S of a layer's heads costs
            Σ_{i,j∈S} M_ij and not merely the sum of their scores.
        errors: layer name -> (h,), the standard error of each score, where scores are estimates.
        spent: what it took to compute them; two scores are equal whatever they took.

    Raises:
        ScoresError: NaN or infinite scores, a wrong shape, or groups that do not divide the heads.
    """

    __slots__ = ("_errors", "_examples", "_groups", "_heads", "_interactions", "_scores", "_spent")

    def __init__(
        self,
        scores: Mapping[str, Tensor],
        groups: Mapping[str, int] | None = None,
        *,
        heads: Mapping[str, Sequence[int]] | None = None,
        examples: int | None = None,
        interactions: Rows | None = None,
        errors: Rows | None = None,
        spent: Spent | None = None,
    ) -> None:
        if not isinstance(scores, Mapping):
            raise ScoresError(f"expected a mapping of layer name to scores, got {type(scores).__name__}")
        self._scores = MappingProxyType({name: _checked_scores(name, row) for name, row in scores.items()})
        extras = {"groups": groups, "heads": heads, "interactions": interactions, "errors": errors}
        for what, given in extras.items():
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
        self._examples = _checked_examples(examples)
        self._interactions = self._checked(interactions, "interactions", lambda heads: (heads, heads))
        self._errors = self._checked(errors, "errors", lambda heads: (heads,))
        self._spent = spent

    @property
    def scores(self) -> Rows:
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

    @property
    def examples(self) -> int | None:
        """How many examples the scores are the mean over; None where scores do not add."""
        return self._examples

    @property
    def interactions(self) -> Rows | None:
        """Layer name -> (h, h): removing the set S of its heads costs the sum of this over S × S."""
        return self._interactions

    @property
    def errors(self) -> Rows | None:
        """Layer name -> (h,), the standard error of each score; None where scores are not estimates."""
        return self._errors

    @property
    def spent(self) -> Spent | None:
        """What it took to compute the scores, where that is known."""
        return self._spent

    def __len__(self) -> int:
        """How many heads are scored."""
        return sum(len(row) for row in self._scores.values())

    def __add__(self, other: "HeadScores") -> "HeadScores":
        """The scores of both sets of examples together.

        Raises:
            ScoresError: scores that are not means over examples, or that are of different layers or heads.
        """
        if not isinstance(other, HeadScores):
            return NotImplemented
        counts = _counts_of(self, other)
        spent = None if self._spent is None or other._spent is None else self._spent + other._spent
        interactions = None
        if self._interactions is not None and other._interactions is not None:
            interactions = _weighted(self._interactions, other._interactions, counts)
        return HeadScores(
            _weighted(self._scores, other._scores, counts),
            self._groups,
            heads=self._heads,
            examples=sum(counts),
            interactions=interactions,
            spent=spent,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HeadScores):
            return NotImplemented
        same = self._groups == other._groups and self._heads == other._heads and self._examples == other._examples
        return same and all(
            _equal(mine, its)
            for mine, its in (
                (self._scores, other._scores),
                (self._interactions, other._interactions),
                (self._errors, other._errors),
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(
            type(self),
            heads=dict(self._heads),
            examples=self._examples,
            interactions=None if self._interactions is None else dict(self._interactions),
            errors=None if self._errors is None else dict(self._errors),
            spent=self._spent,
        )
        return make, (dict(self._scores), dict(self._groups))

    def __repr__(self) -> str:
        rows = ", ".join(f"{name!r}: {[round(x, 6) for x in row.tolist()]}" for name, row in self._scores.items())
        return f"HeadScores({{{rows}}}{'' if self._examples is None else f', examples={self._examples}'})"

    def to_frame(self) -> "pd.DataFrame":
        """A tidy frame: layer, head, score, and the score's standard error where there is one."""
        import pandas as pd

        rows = [
            (name, head, value)
            for name, row in self._scores.items()
            for head, value in zip(self._heads[name], row.tolist(), strict=True)
        ]
        frame = pd.DataFrame(rows, columns=["layer", "head", "score"])
        if self._errors is not None:
            frame["error"] = [value for name in self._scores for value in self._errors[name].tolist()]
        return frame

    def _checked(self, given: Rows | None, what: str, shape: Callable[[int], tuple[int, ...]]) -> Rows | None:
        """One tensor of that shape, a function of the number of heads, for every layer."""
        if given is None:
            return None
        checked = {}
        for name, row in self._scores.items():
            if name not in given:
                raise ScoresError(f"layer {name!r} has scores but no {what}; give those of every layer, or none")
            values = torch.as_tensor(given[name]).detach().to("cpu", torch.float64).clone()
            if tuple(values.shape) != shape(len(row)) or not values.isfinite().all():
                raise ScoresError(
                    f"layer {name!r}: {what} of {len(row)} heads are finite numbers of shape {shape(len(row))}, "
                    f"got shape {tuple(values.shape)}{'' if values.isfinite().all() else ' with NaN or infinity'}"
                )
            checked[name] = values
        return MappingProxyType(checked)


def _counts_of(first: HeadScores, second: HeadScores) -> tuple[int, int]:
    """The examples of both, which are found to be scores of the same heads."""
    if first.examples is None or second.examples is None:
        raise ScoresError(
            "only scores that are means over examples add, and these are not: they do not say over how many "
            "examples (HeadScores.examples is None); score all examples in one call"
        )
    if first.heads != second.heads or first.groups != second.groups:
        differing = [
            name
            for name in {**first.heads, **second.heads}
            if (first.heads.get(name), first.groups.get(name)) != (second.heads.get(name), second.groups.get(name))
        ]
        raise ScoresError(
            f"scores of different heads do not add: they differ in the layers {differing}; score the same model"
        )
    return first.examples, second.examples


def _weighted(first: Rows, second: Rows, counts: tuple[int, int]) -> dict[str, Tensor]:
    total = max(sum(counts), 1)
    return {name: (row * counts[0] + second[name] * counts[1]) / total for name, row in first.items()}


def _equal(first: Rows | None, second: Rows | None) -> bool:
    if first is None or second is None:
        return first is second
    return all(torch.equal(row, second[name]) for name, row in first.items())


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


def _checked_examples(examples: int | None) -> int | None:
    if examples is None:
        return None
    if isinstance(examples, bool) or not hasattr(examples, "__index__") or int(examples) < 1:
        raise ScoresError(f"examples is how many examples the scores are the mean over, 1 or more, got {examples!r}")
    return int(examples)
