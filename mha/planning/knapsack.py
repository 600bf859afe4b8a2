"""Picks one option from each of several lists, of the largest total value: exactly, for costs that are real numbers.

A budget over layers is a multiple-choice knapsack (Kellerer, Pferschy and Pisinger 2004, chapter 11): a layer is
a list, a shape that it may have is an option. Only what can't be in the best choice is dropped on the way:

    dominance   of two partial choices, one that is no cheaper and worth no more is dropped (a Pareto front)
    bounds      the remaining layers add at most what their concave hulls, taken in the order of value per cost,
                hold for the cost that is left (the relaxation that may take fractions of options); a partial
                choice that can't reach the best complete one known is dropped
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

WIDTH = 1000  # partial choices kept at each layer in the first pass, which looks for a good complete choice
COST_STEPS = 2.0**42  # costs and values become whole numbers, whose sums do not depend on their order
VALUE_STEPS = 2.0**46
SLACK = 1e-9  # relative: what rounding may do to a bound, or to costs that add up to exactly the budget


class Option(NamedTuple):
    """One of the things that a layer may become.

    Attributes:
        value: what is to be large in total.
        cost: what is limited in total.
        rank: of choices of the same total value that with the largest total rank is better.
    """

    value: float
    cost: float
    rank: int = 0


def best_within(layers: Sequence[Sequence[Option]], budget: float) -> list[int] | None:
    """For each layer the place of the option to take: the largest total value at a total cost of at most `budget`.

    Of choices of the same value one with the largest total rank is taken; of those, one of the least cost. None is
    returned where even the cheapest options cost more.
    """
    if not layers:
        return [] if budget >= 0 else None
    problem = _Problem.of(layers, budget)
    if problem.cheapest[0] > problem.budget:
        return None
    good = problem.search(np.iinfo(np.int64).min, WIDTH)
    return problem.search(good.worth, None).places


class _Choice(NamedTuple):
    """For each layer the place of the option that is chosen, and what these options are worth together."""

    worth: int
    places: list[int]


@dataclass(frozen=True)
class _Problem:
    """The problem that `best_within` solves, in whole numbers and without dominated options.

    Attributes:
        places, costs, worths: for each layer those of its options, by rising cost. A place is the one in the list that
            was given; a worth is an option's value and, in the last digits, its rank.
        cheapest: for each l, what layers l, l + 1, … cost at least; one more entry than layers.
        hulls: for each l, what `_hulls` gives for layers l, l + 1, ….
        budget: what all layers may cost together, in the same steps as `costs`.
    """

    places: list[np.ndarray]
    costs: list[np.ndarray]
    worths: list[np.ndarray]
    cheapest: np.ndarray
    hulls: list[tuple[np.ndarray, np.ndarray]]
    budget: int

    @classmethod
    def of(cls, layers: Sequence[Sequence[Option]], budget: float) -> "_Problem":
        """The problem of these layers and this budget, rounded to whole numbers, whose sums do not depend on order."""
        rows = [np.array([(option.value, option.cost) for option in options], dtype=float) for options in layers]
        ranks = [np.array([option.rank for option in options], dtype=np.int64) for options in layers]
        base = 1 + sum(int(rank.max()) for rank in ranks)
        value_step = _step(sum(np.abs(row[:, 0]).max() for row in rows) / min(VALUE_STEPS, 2.0**61 / base))
        cost_step = _step(max(sum(np.abs(row[:, 1]).max() for row in rows), abs(budget)) / COST_STEPS)
        values = [np.rint(row[:, 0] / value_step).astype(np.int64) for row in rows]
        worths = [value * base + rank for value, rank in zip(values, ranks, strict=True)]
        costs = [np.rint(row[:, 1] / cost_step).astype(np.int64) for row in rows]
        fronts = [_front(cost, worth) for cost, worth in zip(costs, worths, strict=True)]
        costs = [cost[front] for cost, front in zip(costs, fronts, strict=True)]
        worths = [worth[front] for worth, front in zip(worths, fronts, strict=True)]
        cheapest = np.cumsum([0, *(cost[0] for cost in reversed(costs))])[::-1]
        allowed = int(np.floor((budget + SLACK * abs(budget)) / cost_step))
        return cls(fronts, costs, worths, cheapest, _hulls(costs, worths), allowed)

    def search(self, known: int, width: int | None) -> _Choice:
        """The complete choice within the budget that is worth most.

        Args:
            known: what the best choice is worth at least: partial choices that can't reach it are dropped.
            width: how many partial choices are kept after each layer; None for all, which is exact.
        """
        cost, worth = np.zeros(1, np.int64), np.zeros(1, np.int64)
        steps = []
        for layer, (costs, worths) in enumerate(zip(self.costs, self.worths, strict=True)):
            cost, worth = np.add.outer(cost, costs).ravel(), np.add.outer(worth, worths).ravel()
            bound = worth + self._rest(layer + 1, cost)
            kept = np.flatnonzero(bound >= known - SLACK * abs(known))
            kept = kept[_front(cost[kept], worth[kept])]
            if width is not None and len(kept) > width:
                kept = np.sort(kept[np.argsort(-bound[kept], kind="stable")[:width]])
            cost, worth = cost[kept], worth[kept]
            steps.append(np.divmod(kept, len(costs)))
        best = int(np.argmax(worth))
        state, places = best, []
        for layer in range(len(steps) - 1, -1, -1):
            before, option = steps[layer]
            places.append(int(self.places[layer][option[state]]))
            state = before[state]
        return _Choice(int(worth[best]), places[::-1])

    def _rest(self, layer: int, cost: np.ndarray) -> np.ndarray:
        """For each cost spent before, what this layer and later ones add at most; -infinity where they don't fit."""
        left = self.budget - cost
        corners, heights = self.hulls[layer]
        return np.where(left < self.cheapest[layer], -np.inf, np.interp(left, corners, heights))


def _step(least: float) -> float:
    """The least power of two not below `least`: rounded to multiples of it, equal sums of round numbers stay equal."""
    return float(2.0 ** np.ceil(np.log2(least))) if least > 0 else 1.0


def _front(cost: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Indices of the options that are worth more than all that cost no more, by rising cost and so by rising worth."""
    order = np.lexsort((-worth, cost))
    before = np.maximum.accumulate(worth[order])
    rises = np.ones(len(order), dtype=bool)
    rises[1:] = worth[order][1:] > before[:-1]
    return order[rises]


def _hulls(costs: list[np.ndarray], worths: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each l, the corners (costs, worths) of a curve: what layers l, l + 1, … are worth at most by their cost.

    It is the curve of the relaxation, in which fractions of options may be taken: concave, and linear between corners.
    """
    corner, steps, hulls = np.zeros(2), np.empty((0, 2)), [(np.zeros(1), np.zeros(1))]
    for cost, worth in zip(reversed(costs), reversed(worths), strict=True):
        points = np.stack([cost, worth], axis=1).astype(float)[_upper_hull(cost, worth)]
        corner, steps = corner + points[0], np.concatenate([steps, np.diff(points, axis=0)])
        steps = steps[np.argsort(-steps[:, 1] / steps[:, 0], kind="stable")]
        corners = np.cumsum([corner, *steps], axis=0)
        hulls.append((corners[:, 0], corners[:, 1]))
    return hulls[::-1]


def _upper_hull(cost: np.ndarray, worth: np.ndarray) -> list[int]:
    """Indices of the corners of the upper, concave hull of points; these come by rising cost and worth."""
    hull: list[int] = []
    for point in range(len(cost)):
        while len(hull) > 1 and _is_below(hull[-2], hull[-1], point, cost, worth):
            hull.pop()
        hull.append(point)
    return hull


def _is_below(left: int, middle: int, right: int, cost: np.ndarray, worth: np.ndarray) -> bool:
    """Whether the point of index `middle` lies on the line from point `left` to point `right`, or below it."""
    rise, run = float(worth[right] - worth[left]), float(cost[right] - cost[left])
    return float(worth[middle] - worth[left]) * run <= rise * float(cost[middle] - cost[left])


def best_of_size(layers: Sequence[Sequence[Option]], wanted: int) -> list[int] | None:
    """For each layer the place of the option to take: the largest total cost up to `wanted`, then the largest value.

    Costs must be whole numbers; best[t] is the largest total value of the layers so far at a cost of exactly t. None is
    returned where even the cheapest options cost more.
    """
    best = np.full(wanted + 1, -np.inf)
    best[0] = 0.0
    choices = []
    for options in layers:
        reached, choice = np.full(wanted + 1, -np.inf), np.full(wanted + 1, -1)
        for place, option in enumerate(options):
            cost = int(option.cost)
            if cost > wanted:
                continue
            candidate = best[: wanted + 1 - cost] + option.value
            better = candidate > reached[cost:]
            reached[cost:][better] = candidate[better]
            choice[cost:][better] = place
        best = reached
        choices.append(choice)
    reachable = np.flatnonzero(np.isfinite(best))
    if not len(reachable):
        return None
    left, places = int(reachable[-1]), []
    for options, choice in zip(reversed(layers), reversed(choices), strict=True):
        places.append(int(choice[left]))
        left -= int(options[places[-1]].cost)
    return places[::-1]
