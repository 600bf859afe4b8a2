"""How heads are scored: each criterion as it is, a few with other options, and a few in rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mha
from mha.importance.registry import describe

ROUNDS = "rounds"
FLOOR = "random"
CROSSED = "leave_one_out"  # by what pretrained models' truth is made of (`Subject.crossed`)
# Michel et al. and An et al. normalise each layer, which the library leaves off by default
OPTIONS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("taylor", "normalize", {"normalize": True}),
    ("fluctuation", "normalize", {"normalize": True}),
)
IN_ROUNDS = ("fisher", "leave_one_out", "least_squares", "taylor_second_order", "taylor_signed")
SLOW = ("shapley",)  # not scored again and again where a model has many heads; nor is any in rounds
LEARNED = ("gate", "hard_concrete", "subset")  # many epochs with gradients


@dataclass(frozen=True)
class ScoringVariant:
    """A criterion, and how it is used.

    Attributes:
        label: its name in results.
        criterion: the name by which the library knows it.
        options: keyword arguments that it gets.
        rounds: whether heads are removed little by little and the rest scored again.
    """

    label: str
    criterion: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rounds: bool = False

    def score(
        self,
        model: Any,
        batches: Sequence[Any],
        loss: Any,
        *,
        seed: int,
        rounds: int,
        permutations: int,
        options: Mapping[str, Any] | None = None,
    ) -> mha.HeadScores:
        """The scores of all heads by this variant, as `mha.score` returns them.

        Args:
            batches: the calibration set.
            loss: (model, batch) -> scalar.
            seed: of whatever the criterion draws.
            rounds: how many rounds to score in, if the variant does so.
            permutations: how many to draw at most, if the criterion draws any, as for Shapley values.
            options: further ones, of which the criterion gets those that it has.
        """
        known = describe(self.criterion).options
        given = {name: value for name, value in (options or {}).items() if name in known} | dict(self.options)
        if self.rounds:
            given["rounds"] = rounds
        if "max_permutations" in known:
            given |= {"max_permutations": permutations, "min_permutations": min(permutations, 8)}
        return mha.score(model, batches, loss, self.criterion, seed=seed, progress=False, **given)

    @property
    def slow(self) -> bool:
        """Whether scoring takes too long to be repeated where a model has many heads: in rounds, or one of SLOW."""
        return self.rounds or self.criterion in SLOW

    @property
    def hours(self) -> bool:
        """Whether scoring a pretrained model would take an hour or more: in rounds, or by what is learned or drawn."""
        return self.slow or self.criterion in LEARNED


def variants() -> dict[str, ScoringVariant]:
    """All variants by label, at least one for each criterion that the library has."""
    known = mha.criteria()
    several = [ScoringVariant(name, name) for name in known]
    several += [ScoringVariant(f"{name}+{word}", name, options) for name, word, options in OPTIONS if name in known]
    several += [ScoringVariant(f"{name}+{ROUNDS}", name, rounds=True) for name in IN_ROUNDS if name in known]
    return {variant.label: variant for variant in sorted(several, key=lambda variant: variant.label)}
