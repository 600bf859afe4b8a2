"""`choose` against exhaustive search."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mha
from mha import HeadScores


def feasible(heads: int, groups: int):
    """Every set of heads that leaves each surviving group with the same number of query heads."""
    per_group = heads // groups
    for size in range(heads + 1):
        for kept in itertools.combinations(range(heads), size):
            sizes = {sum(head // per_group == group for head in kept) for group in range(groups)} - {0}
            if len(sizes) <= 1:
                yield kept


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-20, 20), min_size=13, max_size=13),
    budget=st.integers(0, 13),
    min_heads=st.integers(0, 2),
    groups=st.sampled_from([1, 2, 3, 6]),
)
def test_choose_is_the_best_feasible_plan(values, budget, min_heads, groups):
    rows = {"a": torch.tensor(values[:6]), "b": torch.tensor(values[6:10]), "c": torch.tensor(values[10:])}
    scores = HeadScores(rows, groups={"a": groups})
    per_layer = [
        [kept for kept in feasible(len(row), scores.groups[name]) if len(kept) >= min_heads]
        for name, row in rows.items()
    ]
    plans = [plan for plan in itertools.product(*per_layer) if sum(map(len, plan)) <= budget]
    if not plans:
        with pytest.raises(mha.MhaError, match=f"no feasible plan keeps at most {budget} heads"):
            mha.choose(scores, heads=budget, min_heads=min_heads)
        return
    size = max(sum(map(len, plan)) for plan in plans)

    def total(plan):
        return sum(rows[name][head].item() for name, kept in zip(rows, plan, strict=True) for head in kept)

    best = max(total(plan) for plan in plans if sum(map(len, plan)) == size)
    chosen = mha.choose(scores, heads=budget, min_heads=min_heads).keep
    assert sum(map(len, chosen.values())) == size
    assert total(chosen.values()) == best
    assert all(kept in options for kept, options in zip(chosen.values(), per_layer, strict=True))


def test_keep_is_a_share_of_all_heads():
    scores = HeadScores({"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([2.0, 3.0])})
    assert mha.choose(scores, keep=0.6).keep == {"a": (0, 2), "b": (1,)}
    assert mha.choose(scores, keep=0.0).keep == {"a": (), "b": ()}
    assert mha.choose(scores, keep=1.0).keep == {"a": (0, 1, 2), "b": (0, 1)}


def test_plans_speak_of_original_numbers(model):
    pruned = mha.prune(model, mha.HeadPlan({"plain": (1, 4, 6), "grouped": (0, 1, 6, 7), "cross": ()}))
    scores = mha.score(pruned, None, None, "magnitude")
    plan = mha.choose(scores, model=pruned, heads=3)
    assert sum(map(len, plan.keep.values())) == 3
    assert set(plan.keep["plain"]) <= {1, 4, 6}
    assert set(plan.keep["grouped"]) <= {0, 1, 6, 7}
    assert mha.plan_of(mha.prune(pruned, plan)) == plan


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, r"give exactly one budget"),
        ({"keep": 0.5, "heads": 2}, r"give exactly one budget, got keep=0.5, heads=2"),
        ({"keep": 1.5}, r"between 0 and 1, got 1.5"),
        ({"keep": float("nan")}, r"between 0 and 1, got nan"),
        ({"heads": 6}, r"how many of the 5 scored heads to keep, got 6"),
        ({"heads": -1}, r"got -1"),
        (
            {"heads": 3, "min_heads": 2},
            r"at most 3 heads with at least 2 in each of 2 layers; the smallest that does keeps 4",
        ),
        ({"heads": 5, "min_heads": 3}, r"layer 'b' has only 2 heads, fewer than min_heads=3"),
    ],
)
def test_budgets_that_can_not_be_met(budget, message):
    scores = HeadScores({"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([2.0, 3.0])})
    with pytest.raises(mha.MhaError, match=message):
        mha.choose(scores, **budget)


def test_scores_must_belong_to_the_model(model):
    scores = mha.score(model, None, None, "magnitude")
    pruned = mha.prune(model, mha.HeadPlan({"plain": (1,)}))
    with pytest.raises(mha.MhaError, match=r"layer 'plain': the scores are of heads \[0, 1, 2, 3, 4, 5, 6\] in 7"):
        mha.choose(scores, model=pruned, keep=0.5)
    with pytest.raises(mha.MhaError, match=r"the scores name layers that the model does not have: \['x'\]"):
        mha.choose(HeadScores({"x": torch.ones(2)}), model=model, keep=0.5)
