"""Budgets over layers, against exhaustive search and against a dynamic programme over whole costs."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mha.planning.knapsack import Option, best_of_size, best_within

# Values whose sums are exact: of two that are equal on paper only, as 0.1 + 0.2 and 0.3, either may be the larger one.
NUMBERS = st.one_of(st.integers(-4, 4).map(float), st.floats(-3, 3).map(lambda x: round(x * 1024) / 1024))
COSTS = st.one_of(st.integers(0, 4).map(float), st.floats(0, 3).map(lambda x: round(x, 3)))
OPTION = st.builds(Option, NUMBERS, COSTS, st.integers(0, 5))
LAYERS = st.lists(st.lists(OPTION, min_size=1, max_size=6), min_size=1, max_size=4)


def total(layers, places):
    chosen = [layer[place] for layer, place in zip(layers, places, strict=True)]
    return [sum(column) for column in zip(*chosen, strict=True)]


@settings(max_examples=300, deadline=None)
@example(
    layers=[[Option(2.0, 0.0), Option(4.0, 1.0, 1)], [Option(1.0, 1.0), Option(-1.0, 0.0)]], share=0.5
)  # 2 + 1 is 4 - 1
@given(layers=LAYERS, share=st.floats(0, 1))
def test_the_best_within_a_budget(layers, share):
    budget = round(share * sum(max(option.cost for option in layer) for layer in layers), 3)
    every = [total(layers, places) for places in itertools.product(*map(range, map(len, layers)))]
    within = [(value, rank) for value, cost, rank in every if cost <= budget + 1e-9]
    found = best_within(layers, budget)
    if not within:
        assert found is None
        return
    value, cost, rank = total(layers, found)
    assert cost <= budget + 1e-9
    best = max(value for value, _ in within)
    assert value == pytest.approx(best, abs=1e-9)
    assert rank == max(rank for value, rank in within if value > best - 1e-9)


def test_rounding_does_not_cost_the_choice_that_uses_up_the_budget():
    layers = [[Option(0.0, 0.0), Option(1.0, 0.1)]] * 3
    assert 0.1 + 0.1 + 0.1 > 0.3
    assert best_within(layers, 0.3) == [1, 1, 1]


def test_no_layers():
    assert best_within([], 0.0) == []
    assert best_within([], -1.0) is None


@pytest.mark.parametrize("kind", ["real", "staircase", "equal scores", "two widths"])
def test_large_models(kind):
    """48 layers of 64 heads: never worse than a dynamic programme over costs rounded up, never above the relaxation."""
    rng = np.random.default_rng(0)
    heads, layers = np.arange(65), []
    for layer in range(48):
        scores = np.full(64, 0.1) if kind == "equal scores" else np.sort(rng.lognormal(0, 2, 64))[::-1]
        costs = {"staircase": np.ceil(heads / 8) * 8, "two widths": heads * (np.pi if layer % 2 else 1.0)}.get(
            kind, heads * (1 + rng.random())
        )
        values = np.concatenate([[0.0], scores.cumsum()])
        layers.append(
            [Option(*row) for row in zip(values.tolist(), (costs + (heads > 0)).tolist(), heads.tolist(), strict=True)]
        )
    budget = 0.4 * sum(layer[-1].cost for layer in layers)
    places = best_within(layers, budget)
    value, cost, _ = total(layers, places)
    assert cost <= budget * (1 + 1e-9)
    step = budget / 4000
    assert value >= rounded_up(layers, step, 4000) - 1e-9
    assert value <= relaxed(layers, budget) * (1 + 1e-9)


def rounded_up(layers, step, steps):
    """The best value when every cost is rounded up to a multiple of `step`: feasible, so a lower bound."""
    best = np.zeros(steps + 1)
    for options in layers:
        reached = np.full(steps + 1, -np.inf)
        for option in options:
            cost = int(np.ceil(option.cost / step))
            if cost <= steps:
                reached[cost:] = np.maximum(reached[cost:], best[: steps + 1 - cost] + option.value)
        best = reached
    return best[-1]


def relaxed(layers, budget):
    """The smallest Lagrangian bound over a grid of prices: an upper bound, for whatever price."""
    values, costs = (
        np.array([[getattr(option, name) for option in layer] for layer in layers]) for name in ("value", "cost")
    )
    prices = np.geomspace(1e-4, 1e3, 400)
    return min((values - price * costs).max(axis=1).sum() + price * budget for price in prices)


@given(
    layers=st.lists(
        st.lists(st.builds(Option, NUMBERS, st.integers(0, 5)), min_size=1, max_size=4), min_size=1, max_size=3
    ),
    wanted=st.integers(0, 12),
)
@settings(max_examples=100, deadline=None)
def test_the_best_of_a_size(layers, wanted):
    every = [total(layers, places)[:2] for places in itertools.product(*map(range, map(len, layers)))]
    within = [(cost, value) for value, cost in every if cost <= wanted]
    found = best_of_size(layers, wanted)
    if not within:
        assert found is None
        return
    value, cost, _ = total(layers, found)
    assert (cost, pytest.approx(value, abs=1e-9)) == max(within)
