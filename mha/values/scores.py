"""Scores of heads as a value, with what they are the mean over, how sure they are, and what it took to compute them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from mha.values.errors import ScoresError
from mha.values.head_table import (
    Rows,
    check_finite,
    checked_errors,
    checked_examples,
    checked_groups,
    checked_heads,
    checked_interactions,
    checked_scores,
    equal,
    weighted,
)
from mha.values.long_listing import shortened
from mha.values.optional_packages import needed
from mha.values.scores_file import DOCUMENT, arguments

if TYPE_CHECKING:
    import pandas as pd

PRINTED = 24  # heads: scores of more are printed as a table of layers


@dataclass(frozen=True, slots=True)
class Spent:
    """What it took to compute scores.

    Attributes:
        forward, backward: how many runs of the model on one batch; one that starts halfway counts as a fraction.
        seconds: of the wall clock.
    """

    forward: float = 0
    backward: float = 0
    seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.forward + other.forward, self.backward + other.backward, self.seconds + other.seconds)


class HeadScores(Mapping[str, Tensor]):
    """One importance per head; larger = keep.

    Scores are a mapping of layer names to tensors (h,), and are never changed.

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
        comparable: whether scores of different layers can be compared, as those can that say how much the loss rises
            without the head. Where they can't, `choose` compares heads within their layers.
        spent: what it took to compute them, which does not matter to whether two scores are equal.

    Example:
        >>> scores = mha.HeadScores({"encoder": torch.tensor([0.5, 2.0, 1.0])}, examples=8)
        >>> scores
        HeadScores({'encoder': [0.5, 2.0, 1.0]}, examples=8)
        >>> scores["encoder"].argmax().item(), scores.num_heads
        (1, 3)
        >>> more = mha.HeadScores({"encoder": torch.tensor([1.5, 1.0, 1.0])}, examples=8)
        >>> scores + more
        HeadScores({'encoder': [1.0, 1.5, 1.0]}, examples=16)

    Raises:
        ScoresError: NaN or infinite scores, a wrong shape, groups that do not divide the heads, head numbers that are
            not distinct or too few, `examples` below 1, interactions or errors that are not those of all layers, not
            finite, asymmetric or negative; or an argument that names a layer without scores.
    """

    __slots__ = ("_comparable", "_errors", "_examples", "_groups", "_heads", "_interactions", "_scores", "_spent")

    def __init__(
        self,
        scores: Mapping[str, Tensor],
        groups: Mapping[str, int] | None = None,
        *,
        heads: Mapping[str, Sequence[int]] | None = None,
        examples: int | None = None,
        interactions: Rows | None = None,
        errors: Rows | None = None,
        comparable: bool = True,
        spent: Spent | None = None,
    ) -> None:
        if not isinstance(scores, Mapping) or isinstance(scores, HeadScores):  # whose groups and heads would be lost
            raise ScoresError(f"expected a mapping of layer name to scores, got {type(scores).__name__}")
        self._scores = MappingProxyType({name: checked_scores(name, row) for name, row in scores.items()})
        extras = {"groups": groups, "heads": heads, "interactions": interactions, "errors": errors}
        for what, by_layer in extras.items():
            if unknown := set(by_layer or ()) - set(self._scores):
                raise ScoresError(f"{what} names layers without scores: {sorted(unknown)}")
        self._groups = MappingProxyType(
            {name: checked_groups(name, len(row), (groups or {}).get(name)) for name, row in self._scores.items()}
        )
        self._heads = MappingProxyType(
            {name: checked_heads(name, len(row), (heads or {}).get(name)) for name, row in self._scores.items()}
        )
        for name, row in self._scores.items():
            check_finite(name, row, self._heads[name])
        self._examples = checked_examples(examples)
        self._interactions = checked_interactions(interactions, self._scores)
        self._errors = checked_errors(errors, self._scores)
        self._comparable = comparable
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
        """Layer name -> M (h, h), where removing the set S of its heads costs Σ_{i,j∈S} M_ij; None where not known."""
        return self._interactions

    @property
    def errors(self) -> Rows | None:
        """Layer name -> (h,), the standard error of each score; None where scores are not estimates."""
        return self._errors

    @property
    def comparable(self) -> bool:
        """Whether scores of different layers can be compared; otherwise only those of one layer can."""
        return self._comparable

    @property
    def spent(self) -> Spent | None:
        """What it took to compute the scores; None where that is not known."""
        return self._spent

    @property
    def num_heads(self) -> int:
        """How many heads are scored."""
        return sum(len(row) for row in self._scores.values())

    def __getitem__(self, layer: str) -> Tensor:
        return self._scores[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        """How many layers have scores."""
        return len(self._scores)

    def __add__(self, other: "HeadScores") -> "HeadScores":
        """The scores of both sets of examples together: means weighted by the number of examples of each.

        So are interactions, where both have them. Standard errors are dropped; what was spent is added up.

        Raises:
            ScoresError: scores that are not means over examples, or that are of different layers or heads.
        """
        if not isinstance(other, HeadScores):
            return NotImplemented
        counts = _counts_of(self, other)
        spent = None if self._spent is None or other._spent is None else self._spent + other._spent
        interactions = None
        if self._interactions is not None and other._interactions is not None:
            interactions = weighted(self._interactions, other._interactions, counts)
        return HeadScores(
            weighted(self._scores, other._scores, counts),
            self._groups,
            heads=self._heads,
            examples=sum(counts),
            interactions=interactions,
            comparable=self._comparable and other._comparable,
            spent=spent,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HeadScores):
            return NotImplemented
        same = self._groups == other._groups and self._heads == other._heads and self._examples == other._examples
        return (
            same
            and self._comparable == other._comparable
            and all(
                equal(mine, its)
                for mine, its in (
                    (self._scores, other._scores),
                    (self._interactions, other._interactions),
                    (self._errors, other._errors),
                )
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
            comparable=self._comparable,
            spent=self._spent,
        )
        return make, (dict(self._scores), dict(self._groups))

    def __repr__(self) -> str:
        notes = [] if self._examples is None else [f"examples={self._examples}"]
        notes += [] if self._comparable else ["comparable=False"]
        if self.num_heads > PRINTED:
            title = ", ".join([f"{self.num_heads} heads in {len(self)} layers", *notes])
            layers = [_in_a_line(name, row, self._heads[name]) for name, row in self._scores.items()]
            return "\n  ".join([f"HeadScores of {title}:", *shortened(layers)])
        rows = ", ".join(f"{name!r}: {[round(x, 6) for x in row.tolist()]}" for name, row in self._scores.items())
        return f"HeadScores({', '.join([f'{{{rows}}}', *notes])})"

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the scores, and all other arguments of the class, to `path` as JSON, so that none is rounded.

        The file appears whole or not at all.
        """
        layers = {}
        for name, row in self._scores.items():
            layers[name] = {"heads": list(self._heads[name]), "groups": self._groups[name], "scores": row.tolist()}
            for key, extra in (("interactions", self._interactions), ("errors", self._errors)):
                layers[name][key] = None if extra is None else extra[name].tolist()
        spent = None if self._spent is None else asdict(self._spent)
        DOCUMENT.write(
            path, {"examples": self._examples, "comparable": self._comparable, "spent": spent, "layers": layers}
        )

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read scores that `to_json` wrote.

        Raises:
            ScoresError: the file can't be read, is no file of scores (by its "format") or one cut off, has values that
                the class refuses, or is of another version of the format.
        """
        document = DOCUMENT.read(path)
        with DOCUMENT.checked(path, "score again"):
            options = arguments(document)
            spent = None if options["spent"] is None else Spent(**options["spent"])
            return cls(**options | {"spent": spent})

    def to_frame(self) -> "pd.DataFrame":
        """A tidy frame, a row a head: `layer`, `head` (original number), `score`, and `error` if errors are known."""
        needed("pandas", "plot", "to make a frame")
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


def _counts_of(first: HeadScores, second: HeadScores) -> tuple[int, int]:
    """How many examples the first and the second scores are the mean over.

    Raises:
        ScoresError: scores that are not means over examples, or that are of different layers or heads.
    """
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


def _in_a_line(name: str, row: Tensor, heads: Sequence[int]) -> str:
    """One line of text on a layer: its smallest and its largest score, each with the head that has it."""
    if not len(row):
        return f"{name!r}: no heads"
    least, most = int(row.argmin()), int(row.argmax())
    return f"{name!r}: {row[least]:.3g} (head {heads[least]}) to {row[most]:.3g} (head {heads[most]}), {len(row)} heads"
