"""Puts the choice of a plan as a problem for the knapsack, and makes a plan of the knapsack's solution."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mha.planning.charges import Charges
from mha.planning.feasible import Alternative, Choice, Part, alike, counts_in_words, parts_of
from mha.planning.knapsack import Option, best_of_size, best_within
from mha.planning.terms import Terms
from mha.planning.tied_layers import Tie
from mha.values.errors import ScoresError
from mha.values.plan import HeadPlan, HeadScores


@dataclass(frozen=True)
class Programme:
    """All that a plan may keep; its methods find the best plan within a budget.

    Attributes:
        layers: names of the scored layers.
        one_by_one: for each layer, or set of tied layers, every way to prune it that the terms allow, other layers
            aside.
        parts: what the knapsack chooses from, part by part: `one_by_one`, or, where all layers are to be alike, a
            single part with the ways for all of them.
        terms: what was asked for beside the budget, in words.
    """

    layers: Sequence[str]
    one_by_one: Sequence[Part]
    parts: Sequence[Part]
    terms: str

    @classmethod
    def of(
        cls,
        scores: HeadScores,
        terms: Terms,
        ties: Iterable[Tie],
        known: Mapping[str, Sequence[Choice]] | None = None,
    ) -> "Programme":
        """The programme of all that a plan for these scores may keep, by the terms and with tied layers kept alike.

        Args:
            known: layer -> its choices, where more is known of them than the scores of single heads say.

        Raises:
            ScoresError: the terms can't be met, whatever the budget.
        """
        layers = list(scores.scores)
        one_by_one = parts_of(scores, terms, ties, known)
        parts = [alike(scores, one_by_one, terms)] if terms.uniform and layers else one_by_one
        return cls(layers, one_by_one, parts, terms.in_words(len(layers)))

    def best_of_size(self, wanted: int) -> HeadPlan:
        """The plan with the most heads, but not more than `wanted`; of such plans the one of the largest total score.

        Raises:
            ScoresError: no feasible plan has so few heads, or only the one without any.
        """
        options = self._options(lambda way: sum(choice.shape.heads for choice in way.values()))
        best = best_of_size(options, wanted)
        if best is None:
            fewest = sum(min(option.rank for option in part) for part in options)
            raise ScoresError(
                f"no feasible plan keeps at most {wanted} heads with {self.terms}; the smallest that does keeps "
                f"{fewest}"
            )
        if wanted and not any(part[place].rank for part, place in zip(options, best, strict=True)):
            self._check_any(options)
            least = min(option.rank for part in options for option in part if option.rank)
            raise ScoresError(
                f"no plan but the empty one keeps at most {wanted} heads with {self.terms}; the nearest that can be "
                f"met are 0 and {least}"
            )
        return self._plan(best)

    def within_budget(self, budget: str, share: float, charges: Charges) -> HeadPlan:
        """The plan of the largest total score by which the model costs at most `share` of what the dense one costs.

        Args:
            budget: what is limited ("latency", say), for errors.
            charges: what the layers cost in each shape, and the rest of the model.

        Raises:
            ScoresError: every plan costs more, or the terms allow no plan but the one without any head.
        """
        fixed = charges.besides(self.layers)
        options = self._options(charges.of_layers)
        self._check_any(options)
        best = best_within(options, share * charges.dense - fixed)
        if best is None:
            least = fixed + sum(min(option.cost for option in part) for part in options)
            raise ScoresError(
                f"no feasible plan takes at most {share:g} of the dense model's {budget} with {self.terms}; the "
                f"least that any does is {least / charges.dense:.4f}"
            )
        return self._plan(best)

    def _options(self, cost: Callable[[Alternative], float]) -> list[list[Option]]:
        """For each part its ways as options of the knapsack: by total score, by `cost`, and by how many heads stay."""
        return [
            [
                Option(
                    sum(choice.value for choice in way.values()),
                    cost(way),
                    sum(choice.shape.heads for choice in way.values()),
                )
                for way in part
            ]
            for part in self.parts
        ]

    def _plan(self, places: Sequence[int]) -> HeadPlan:
        """The plan that takes of each part the way at the place that is given for it."""
        ways = [part[place] for part, place in zip(self.parts, places, strict=True)]
        heads = {name: choice.heads for way in ways for name, choice in way.items()}
        return HeadPlan({name: heads[name] for name in self.layers})

    def _check_any(self, options: Sequence[Sequence[Option]]) -> None:
        """Refuse terms by which no head could stay, whatever the budget.

        Args:
            options: for each part its ways, whose `rank` is how many heads they keep.

        Raises:
            ScoresError: layers were scored, and no way keeps any head.
        """
        if self.layers and not any(option.rank for part in options for option in part):
            raise ScoresError(
                f"no plan but the empty one has {self.terms}; layers may keep one by one: "
                f"{counts_in_words(self.one_by_one)}"
            )
