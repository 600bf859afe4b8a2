"""Exchanges within a layer, against exhaustive search."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mha
from mha import HeadPlan, HeadScores
from mha.planning.exchange import exchange, rearranged
from tests.mha.support.plans import feasible


def cost(interactions, kept):
    """By the definition."""
    gone = [head for head in range(len(interactions)) if head not in kept]
    return sum(interactions[i, j] for i, j in itertools.product(gone, gone))


def block(seed, heads):
    """A Fisher block: the mean of outer products, of few examples, so that heads go together."""
    gradients = np.random.default_rng(seed).normal(size=(5, heads))
    return gradients.T @ gradients / 5


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), groups=st.sampled_from([1, 2, 3, 6]), start=st.integers(0, 10**6))
def test_exchanges_lower_the_cost_and_keep_the_plan_feasible(seed, groups, start):
    interactions = block(seed, 6)
    plans = list(feasible(6, groups))
    kept = plans[start % len(plans)]
    found = exchange(interactions, list(kept), groups)
    assert tuple(found) in plans
    assert len(found) == len(kept)
    assert cost(interactions, found) <= cost(interactions, kept) + 1e-12


@pytest.mark.parametrize("groups", [7, 1], ids=["plain", "one group"])
def test_exchanges_mostly_find_the_best_set_there_is(groups):
    """From the plan of the diagonal alone, in layers small enough to try every set."""
    best, start = 0, 0
    trials = [(seed, count) for seed in range(20) for count in (2, 3, 5)]
    for seed, count in trials:
        interactions = block(seed, 7)
        greedy = sorted(np.argsort(-interactions.diagonal())[:count].tolist())
        least = min(cost(interactions, kept) for kept in itertools.combinations(range(7), count))
        kept = exchange(interactions, greedy, groups)
        found = cost(interactions, kept)
        best += found <= least + 1e-9
        start += cost(interactions, greedy) <= least + 1e-9
        for leaves, comes in itertools.product(kept, set(range(7)) - {*kept}):  # no exchange is left that would help
            assert cost(interactions, {*kept, comes} - {leaves}) >= found - 1e-9
    assert best >= 0.8 * len(trials) > 1.3 * start


def test_of_two_heads_that_only_matter_together_one_stays():
    """Heads 0 and 1 do the same: either may leave, not both. Head 2 matters a little less than each."""
    gradients = torch.tensor([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [0.0, 0.0, 1.5], [0.0, 0.0, -1.5]])
    fisher = gradients.T @ gradients / 4
    cancelling = torch.tensor([[1.0, -0.9, 0.0], [-0.9, 1.0, 0.0], [0.0, 0.0, 0.9]])
    together = HeadScores({"a": fisher.diagonal()}, interactions={"a": fisher})
    assert rearranged(HeadPlan({"a": (0,)}), together) == HeadPlan({"a": (0,)})
    apart = HeadScores({"a": cancelling.diagonal()}, interactions={"a": cancelling}, heads={"a": [2, 5, 7]})
    assert mha.choose(apart, heads=1) == HeadPlan({"a": (7,)})


def test_scores_without_interactions_leave_the_plan_alone():
    plan = HeadPlan({"a": (1,)})
    assert rearranged(plan, HeadScores({"a": torch.arange(3)})) is plan
    scores = HeadScores({"a": torch.arange(3), "b": []}, interactions={"a": torch.eye(3), "b": torch.zeros(0, 0)})
    assert rearranged(HeadPlan({"a": (), "b": ()}), scores) == HeadPlan({"a": (), "b": ()})


def test_choose_rearranges_what_the_fisher_information_plans(model, batches, loss):
    scores = mha.score(model, batches, loss, "fisher")
    plain = HeadScores(scores.scores, scores.groups, heads=scores.heads)
    costs = {}
    for which, these in (("plain", plain), ("rearranged", scores)):
        plan = mha.choose(these, heads=11)
        costs[which] = sum(cost(scores.interactions[name].numpy(), heads) for name, heads in plan.keep.items())
        assert sum(map(len, plan.keep.values())) <= 11
        mha.prune(model, plan)
    assert costs["rearranged"] < costs["plain"]
