"""What `choose` is asked for beside a budget, against every plan that there is."""

import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mha
from mha import HeadPlan, HeadScores
from mha.planning.exchange import cost_of_removing
from tests.mha.support.plans import every_plan, table

VALUES = st.lists(st.integers(-9, 20), min_size=11, max_size=11)
TERMS = st.fixed_dictionaries(
    {
        "uniform": st.booleans(),
        "multiple_of": st.sampled_from([1, 2, 3]),
        "whole_groups": st.booleans(),
        "min_heads": st.integers(0, 2),
    }
)


def scores_of(values, groups, **more):
    rows = {"a": torch.tensor(values[:4]), "b": torch.tensor(values[4:8]), "c": torch.tensor(values[8:])}
    return HeadScores(rows, groups={"a": groups, "b": 2}, **more)


def shape(scores, name, kept):
    """(heads, groups, whether every group that is there is whole)."""
    per_group = len(scores.heads[name]) // scores.groups[name]
    there = {head // per_group for head in kept}
    return len(kept), len(there), len(kept) == per_group * len(there)


def meets(scores, plan, uniform, multiple_of, whole_groups, min_heads):
    """By the definition, as a user of tensor parallelism reads the finished model."""
    shapes = {name: shape(scores, name, kept) for name, kept in plan.keep.items()}
    if any(heads < min_heads or (whole_groups and not whole) for heads, _, whole in shapes.values()):
        return False
    for name, (heads, groups, _) in shapes.items():
        copies = scores.groups[name] < multiple_of and heads % multiple_of == 0
        if groups % multiple_of and not (copies and multiple_of % groups == 0):
            return False
    grouped = {shapes[name][:2] for name in shapes if scores.groups[name] < len(scores.heads[name])}
    return not uniform or (len({heads for heads, _, _ in shapes.values()}) == 1 and len(grouped) <= 1)


def worth(values, plan):
    first = {"a": 0, "b": 4, "c": 8}
    return sum(values[first[name] + head] for name, kept in plan.keep.items() for head in kept)


def size(plan):
    return sum(map(len, plan.keep.values()))


@settings(max_examples=40, deadline=None)
@given(values=VALUES, terms=TERMS, budget=st.integers(1, 11), groups=st.sampled_from([1, 2, 4]))
def test_of_a_number_of_heads_the_best_plan_that_meets_the_terms(values, terms, budget, groups):
    scores = scores_of(values, groups)
    within = [plan for plan in every_plan(scores) if meets(scores, plan, **terms) and size(plan) <= budget]
    most = max(map(size, within), default=0)
    if not most:
        with pytest.raises(mha.MhaError, match=r"no (feasible )?plan|none of them at least"):
            mha.choose(scores, heads=budget, **terms)
        return
    best = max(worth(values, plan) for plan in within if size(plan) == most)
    for way in ({"heads": budget}, {"keep": budget / 11}):
        chosen = mha.choose(scores, **way, **terms)
        assert meets(scores, chosen, **terms)
        assert (size(chosen), worth(values, chosen)) == (most, best)


@settings(max_examples=40, deadline=None)
@given(
    values=VALUES,
    terms=TERMS,
    budget=st.sampled_from(["latency", "flops", "parameters"]),
    share=st.floats(0.3, 1.0),
    groups=st.sampled_from([1, 2, 4]),
)
def test_within_a_cost_the_best_plan_that_meets_the_terms(values, terms, budget, share, groups):
    scores = scores_of(values, groups)
    costs = table(scores, lambda index, shape: (index + 1.0) * shape.heads + 0.5 * shape.groups, unscored=5)
    every = [plan for plan in every_plan(scores) if meets(scores, plan, **terms)]
    within = [plan for plan in every if getattr(costs, budget)(plan).share <= share + 1e-12]
    if not within or not any(map(size, every)):
        with pytest.raises(mha.MhaError, match=r"no (feasible )?plan|none of them at least"):
            mha.choose(scores, **{budget: share}, costs=costs, **terms)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mha.SlowPlanWarning)
        chosen = mha.choose(scores, **{budget: share}, costs=costs, **terms)
    best = max(worth(values, plan) for plan in within)
    assert meets(scores, chosen, **terms)
    assert getattr(costs, budget)(chosen).share <= share + 1e-9
    assert worth(values, chosen) == best
    assert size(chosen) == max(size(plan) for plan in within if worth(values, plan) == best)


@settings(max_examples=40, deadline=None)
@given(values=VALUES, terms=TERMS, budget=st.integers(1, 11), seed=st.integers(0, 99))
def test_heads_that_are_exchanged_still_meet_the_terms(values, terms, budget, seed):
    generator = torch.Generator().manual_seed(seed)
    blocks = {name: torch.randn(7, count, generator=generator) for name, count in (("a", 4), ("b", 4), ("c", 3))}
    blocks = {name: rows.T @ rows for name, rows in blocks.items()}
    apart, together = scores_of(values, 2), scores_of(values, 2, interactions=blocks)
    try:
        before = mha.choose(apart, heads=budget, **terms)
    except mha.MhaError:
        with pytest.raises(mha.MhaError):
            mha.choose(together, heads=budget, **terms)
        return
    after = mha.choose(together, heads=budget, **terms)
    assert meets(together, after, **terms)
    for name, kept in before.keep.items():
        assert shape(apart, name, kept) == shape(apart, name, after.keep[name])
        costs = [cost_of_removing(blocks[name].numpy(), list(plan.keep[name])) for plan in (before, after)]
        assert costs[1] <= costs[0] + 1e-9


def test_ranks_share_what_they_can():
    """Eight query heads in two groups on four ranks: a copy of a group each, and the query heads divided."""
    grouped = HeadScores({"a": torch.arange(8.0)}, groups={"a": 2})
    assert mha.choose(grouped, heads=7, multiple_of=4).keep == {"a": (4, 5, 6, 7)}
    assert mha.choose(grouped, heads=7, multiple_of=2).keep == {"a": (1, 2, 3, 5, 6, 7)}
    multi_query = HeadScores({"a": torch.arange(8.0)}, groups={"a": 1})
    assert mha.choose(multi_query, heads=7, multiple_of=4).keep == {"a": (4, 5, 6, 7)}
    plain = HeadScores({"a": torch.arange(8.0)})
    assert mha.choose(plain, heads=7, multiple_of=4).keep == {"a": (4, 5, 6, 7)}


def test_plain_and_grouped_layers_alike():
    rows = {"plain": torch.arange(8.0), "wide": torch.arange(8.0), "narrow": torch.arange(6.0)}
    scores = HeadScores(rows, groups={"wide": 4, "narrow": 2})
    plan = mha.choose(scores, heads=15, uniform=True)
    assert plan.keep == {"plain": (4, 5, 6, 7), "wide": (4, 5, 6, 7), "narrow": (1, 2, 4, 5)}


def test_a_pruned_model_has_one_configuration(model):
    """What the terms are for: every layer of the pruned model has the same counts."""
    scores = mha.score(model, None, None, "magnitude")
    pruned = mha.prune(model, mha.choose(scores, model=model, keep=0.6, uniform=True))
    assert {layer.num_heads for layer in mha.find_attention(pruned).values()} == {3}


def alike(heads=4, layers=3, **more):
    return HeadScores({name: torch.arange(1.0, heads + 1) for name in "abc"[:layers]}, **more)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (
            alike(),
            {"heads": 2, "uniform": True},
            r"no plan but the empty one keeps at most 2 heads with at least 0 in each of 3 layers, the same number in "
            r"every layer; the nearest that can be met are 0 and 3",
        ),
        (
            alike(),
            {"keep": 0.1, "multiple_of": 2},
            r"empty one keeps at most 1 heads with .*, numbers of key/value groups that are multiples of 2; the "
            r"nearest that can be met are 0 and 2",
        ),
        (
            alike(groups={"a": 2, "b": 2, "c": 2}),
            {"heads": 1, "whole_groups": True},
            r"empty one keeps at most 1 heads with .*, whole key/value groups; the nearest that can be met are 0 and 2",
        ),
        (
            alike(),
            {"heads": 5, "uniform": True, "min_heads": 2},
            r"at most 5 heads with at least 2 in each of 3 layers, the same .*; the smallest that does keeps 6",
        ),
        (
            alike(),
            {"heads": 9, "multiple_of": 5},
            r"no plan but the empty one has .* multiples of 5; layers may keep one by one: 'a' \[0\]",
        ),
        (
            HeadScores({"a": torch.ones(4), "gone": torch.ones(0)}),
            {"heads": 3, "uniform": True},
            r"no plan but the empty one has .*; layers may keep one by one: 'a' \[0, 1, 2, 3, 4\]; 'gone' \[0\]",
        ),
        (
            HeadScores({"a": torch.ones(4), "b": torch.ones(6)}),
            {"heads": 9, "uniform": True, "min_heads": {"b": 5}},
            r"no feasible plan has at least {'b': 5} in each .*; layers may keep one by one: 'a' \[0, 1, 2, 3, 4\]; "
            r"'b' \[5, 6\]",
        ),
        (
            alike(3),
            {"heads": 9, "multiple_of": 2, "min_heads": 3},
            r"layer 'a': of its 3 heads in 3 key/value groups it may keep \[0, 2\], none of them at least min_heads=3",
        ),
        (alike(), {"heads": 2, "multiple_of": 0}, r"multiple_of is a whole number, 1 or more, got 0"),
        (alike(), {"heads": 2, "multiple_of": True}, r"multiple_of is a whole number, 1 or more, got True"),
        (alike(), {"heads": 2, "multiple_of": 2.0}, r"multiple_of is a whole number, 1 or more, got 2.0"),
        (alike(), {"heads": 2, "uniform": 4}, r"uniform is True or False, got 4"),
        (alike(), {"heads": 2, "whole_groups": None}, r"whole_groups is True or False, got None"),
    ],
)
def test_terms_that_can_not_be_met(scores, options, message):
    with pytest.raises(mha.MhaError, match=message):
        mha.choose(scores, **options)


def test_a_cost_that_only_the_empty_plan_meets_is_met_by_it():
    scores = alike()
    costs = table(scores, lambda _, shape: 1.0 * shape.heads)
    empty = HeadPlan(dict.fromkeys("abc", ()))
    assert mha.choose(scores, latency=10 / 22, costs=costs, uniform=True) == empty
    with pytest.raises(mha.MhaError, match="no plan but the empty one has"):
        mha.choose(scores, latency=0.9, costs=costs, multiple_of=5)


def test_no_layers():
    assert mha.choose(HeadScores({}), heads=0, uniform=True) == HeadPlan({})


def test_terms_reach_shrink(model, batches, loss):
    small = mha.shrink(
        model, batches, loss, lambda model, batch: model(*batch[:2]), criterion="magnitude", keep=0.6, uniform=True
    )
    assert {layer.num_heads for layer in mha.find_attention(small).values()} == {3}


def test_every_way_at_once():
    for uniform, whole_groups in itertools.product((True, False), repeat=2):
        scores = alike(12, groups={"a": 6, "b": 6, "c": 6})
        plan = mha.choose(scores, heads=25, uniform=uniform, whole_groups=whole_groups, multiple_of=2, min_heads=1)
        assert size(plan) == 24
        assert meets(scores, plan, uniform, 2, whole_groups, 1)
