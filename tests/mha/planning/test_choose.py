"""`choose` against exhaustive search."""

import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mha
from mha import HeadScores
from tests.mha.support.plans import every_plan, feasible, table


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


def worth(scores, plan):
    return sum(scores.scores[name][list(kept)].sum().item() for name, kept in plan.keep.items())


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(-9, 20), min_size=9, max_size=9),
    steps=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    share=st.floats(0.2, 1.0),
    groups=st.sampled_from([1, 2, 4]),
    fewest=st.integers(0, 1),
)
def test_a_latency_budget_holds_for_the_whole_model(values, steps, share, groups, fewest):
    """Every layer's time counts once, and so does that of layers without scores."""
    rows = {"a": torch.tensor(values[:4]), "b": torch.tensor(values[4:7]), "c": torch.tensor(values[7:])}
    scores = HeadScores(rows, groups={"a": groups})

    def seconds(index, shape):
        return (index + 1) * sum(steps[: shape.heads]) + 0.5 * shape.groups

    costs = table(scores, seconds, unscored=5)
    within = [plan for plan in every_plan(scores, fewest) if costs.latency(plan).share <= share + 1e-12]
    if not within:
        with pytest.raises(mha.MhaError, match=r"no feasible plan takes at most .* of the dense model's latency"):
            mha.choose(scores, latency=share, costs=costs, min_heads=fewest)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mha.SlowPlanWarning)
        plan = mha.choose(scores, latency=share, costs=costs, min_heads=fewest)
    best = max(worth(scores, other) for other in within)
    assert costs.latency(plan).share <= share + 1e-9
    assert worth(scores, plan) == best
    equals = [other for other in within if worth(scores, other) == best]
    assert sum(map(len, plan.keep.values())) == max(sum(map(len, other.keep.values())) for other in equals)


def test_no_head_leaves_where_that_saves_nothing():
    """A device that computes four heads in the time of one."""
    scores = HeadScores({"a": torch.tensor([0.0, 3.0, 0.0, 1.0, 0.5, 0.0, 2.0, 0.25])})
    costs = table(scores, lambda _, shape: 10.0 * -(-shape.heads // 4))
    assert mha.choose(scores, latency=0.7, costs=costs).keep == {"a": (1, 3, 4, 6)}
    scores = HeadScores({"a": torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0, 0.0, 2.0, 0.0])})
    assert len(mha.choose(scores, latency=0.7, costs=costs).keep["a"]) == 4


def test_heads_that_hurt_leave_although_they_could_stay():
    scores = HeadScores({"a": torch.tensor([1.0, -1.0, 2.0, -0.5]), "b": torch.tensor([-1.0, -2.0])})
    costs = table(scores, lambda _, shape: float(shape.heads))
    assert mha.choose(scores, latency=1.0, costs=costs).keep == {"a": (0, 2), "b": ()}
    assert mha.choose(scores, latency=1.0, costs=costs, min_heads={"b": 1}).keep == {"a": (0, 2), "b": (0,)}
    assert mha.choose(scores, keep=1.0, costs=costs).keep == {"a": (0, 1, 2, 3), "b": (0, 1)}


def test_everything_fits_into_all_of_it():
    scores = HeadScores({name: torch.full((7,), 0.1) for name in "abc"})
    costs = table(scores, lambda index, shape: 0.1 * (index + 1) * shape.heads, rest=0.3)
    for budget in ({"latency": 1.0}, {"flops": 1.0}, {"parameters": 1.0}):
        assert mha.choose(scores, **budget, costs=costs).keep == {name: tuple(range(7)) for name in "abc"}


@pytest.mark.parametrize("budget", ["flops", "parameters"])
def test_budgets_of_counted_things(budget):
    scores = HeadScores({"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([2.0, 3.0])})
    costs = table(scores, lambda _, shape: 1.0 * shape.heads)
    for plan in every_plan(scores):
        share = getattr(costs, budget)(plan).share
        chosen = mha.choose(scores, **{budget: share}, costs=costs)
        assert sum(map(len, chosen.keep.values())) == sum(map(len, plan.keep.values()))
        assert getattr(costs, budget)(chosen).share <= share


def test_parameters_are_counted_on_the_model(model):
    scores = mha.score(model, None, None, "magnitude")
    whole = sum(parameter.numel() for parameter in model.parameters())
    for share in (1.0, 0.8, 0.5, 0.2):
        pruned = mha.prune(model, mha.choose(scores, model=model, parameters=share))
        left = sum(parameter.numel() for parameter in pruned.parameters())
        assert left <= share * whole
        assert left > (share - 0.15) * whole
    assert left < whole


def test_a_slow_plan_is_told():
    """Slices run as another class than the dense layer, which is faster."""
    scores = HeadScores({"a": torch.tensor([3.0, 1.0, 2.0])})
    costs = table(scores, lambda _, shape: float(shape.heads), rest=10.0, dense=12.0)
    with pytest.warns(
        mha.SlowPlanWarning, match=r"keeps 2 of 3 heads and, by the measured costs, takes 1.000 of the dense"
    ):
        mha.choose(scores, heads=2, costs=costs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mha.choose(scores, heads=1, costs=costs).keep == {"a": (0,)}
        assert mha.choose(scores, heads=3, costs=costs).keep == {"a": (0, 1, 2)}
        assert mha.choose(scores, latency=0.99, costs=costs).keep == {"a": (0,)}


def test_a_large_model():
    """48 layers of 64 heads with a cost of their own each; no plan by heads alone does better in the same time."""
    generator = torch.Generator().manual_seed(0)
    scores = HeadScores({f"{layer}": torch.rand(64, generator=generator) ** 4 for layer in range(48)})
    slopes = (1 + torch.rand(48, generator=generator)).tolist()
    costs = table(scores, lambda index, shape: slopes[index] * (1 + shape.heads) if shape.heads else 0.1)
    plan = mha.choose(scores, latency=0.5, costs=costs)
    assert 0.4999 < costs.latency(plan).share <= 0.5
    for heads in range(512, 48 * 64, 512):
        other = mha.choose(scores, heads=heads)
        if costs.latency(other).share <= 0.5:
            assert worth(scores, other) <= worth(scores, plan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency": 0.5, "flops": 0.5}, r"give exactly one budget, got latency=0.5, flops=0.5"),
        ({"latency": 1.5}, r"latency is a share of the dense model's, between 0 and 1, got 1.5"),
        ({"flops": float("nan")}, r"between 0 and 1, got nan"),
        ({"heads": 2.5}, r"how many of the 5 scored heads to keep, got 2.5"),
        ({"latency": 0.5}, r"latency needs measured costs: choose\(…, latency=…, costs=mha.measure_costs"),
        ({"flops": 0.5}, r"flops needs measured costs"),
        ({"parameters": 0.5}, r"parameters needs the model, or its costs"),
        (
            {"heads": 2, "min_heads": {"x": 1}},
            r"min_heads names layers without scores: \['x'\]; scored are \['a', 'b'\]",
        ),
        ({"heads": 2, "min_heads": {"b": 3}}, r"layer 'b' has only 2 heads, fewer than min_heads=3"),
    ],
)
def test_wrong_budgets(options, message):
    scores = HeadScores({"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([2.0, 3.0])})
    with pytest.raises(mha.MhaError, match=message):
        mha.choose(scores, **options)


def test_the_nearest_that_can_be_met():
    scores = HeadScores({"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([2.0, 3.0])})
    costs = table(scores, lambda _, shape: 2.0 * shape.heads)
    with pytest.raises(
        mha.MhaError, match=r"at most 0.3 of the dense model's latency .*; the least that any does is 0.5000"
    ):
        mha.choose(scores, latency=0.3, costs=costs)
    with pytest.raises(mha.MhaError, match=r"with at least 1 in each of 2 layers; the least that any does is 0.7000"):
        mha.choose(scores, latency=0.6, costs=costs, min_heads=1)
    assert mha.choose(scores, latency=0.5, costs=costs).keep == {"a": (), "b": ()}


def test_costs_must_belong_to_the_scores():
    scores = HeadScores({"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([2.0, 3.0])})
    costs = table(scores, lambda _, shape: 2.0 * shape.heads)
    with pytest.raises(mha.MhaError, match=r"layers that the costs do not have: \['x'\]; there are \['a', 'b'\]"):
        mha.choose(HeadScores({"x": torch.ones(2)}), latency=0.5, costs=costs)
    other = HeadScores({"a": torch.ones(3)}, heads={"a": (0, 2, 3)})
    with pytest.raises(mha.MhaError, match=r"heads \[0, 2, 3\] in 3 .*, the costs of heads \[0, 1, 2\] in 3; measure"):
        mha.choose(other, keep=0.5, costs=costs)
