"""What `choose` makes of layers that share weights: plans that `prune` accepts, and the best of these."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mha
from mha import HeadPlan, HeadScores, MultiHeadAttention
from mha.planning.tied_layers import Alike, Tie, ties_of
from tests.mha.support.plans import feasible

LINEARS = ("W_q", "W_k", "W_v", "W_o")


def attention(heads=6, groups=3) -> MultiHeadAttention:
    return MultiHeadAttention.square(13, heads, bias=True, head_dim=7, num_kv_heads=groups)


def three(*shared: str, heads=(6, 6, 4), groups=(3, 3, 4)) -> nn.ModuleDict:
    """Three layers, of which the first two hold these linears together."""
    names = ("first", "second", "alone")
    layers = [attention(*counts) for counts in zip(heads, groups, strict=True)]
    for name in shared:
        setattr(layers[1], name, getattr(layers[0], name))
    return nn.ModuleDict(dict(zip(names, layers, strict=True)))


def crossed() -> nn.ModuleDict:
    """The queries of six heads are the keys of six groups elsewhere: an axis that holds other things in each."""
    model = three(heads=(6, 12, 4), groups=(6, 6, 4))
    model["second"].W_k = model["first"].W_q
    return model


def keys_are_values() -> nn.ModuleDict:
    """One layer that holds a linear twice, and no other layer holds it."""
    model = three()
    model["first"].W_v = model["first"].W_k
    return model


MODELS = {
    "nothing": (three(), None),
    "keys that are values": (keys_are_values(), None),
    "keys": (three("W_k"), Alike.GROUPS),
    "keys and values": (three("W_k", "W_v"), Alike.GROUPS),
    "outputs": (three("W_o"), Alike.HEADS),
    "everything": (three(*LINEARS), Alike.HEADS),
    "keys of layers with other numbers of heads": (three("W_k", heads=(6, 9, 4)), Alike.GROUPS),
    "queries that are keys": (crossed(), Alike.EVERYTHING),
}
ROWS = st.lists(st.integers(-9, 20), min_size=22, max_size=22)
TERMS = st.fixed_dictionaries(
    {
        "uniform": st.booleans(),
        "multiple_of": st.sampled_from([1, 2]),
        "whole_groups": st.booleans(),
        "min_heads": st.integers(0, 2),
    }
)
BUDGETS = st.one_of(
    st.fixed_dictionaries({"keep": st.floats(0.0, 1.0)}), st.fixed_dictionaries({"parameters": st.floats(0.1, 1.0)})
)


def scored(model: nn.Module, values: list[int], **more) -> HeadScores:
    """The model's heads with these values, as many as it takes."""
    layers, left = mha.find_attention(model), iter(itertools.cycle(values))
    return HeadScores(
        {name: torch.tensor([next(left) for _ in layer.heads]) for name, layer in layers.items()},
        groups={name: layer.num_kv_heads for name, layer in layers.items()},
        heads={name: layer.heads for name, layer in layers.items()},
        **more,
    )


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_what_is_tied_is_found(name):
    model, alike = MODELS[name]
    assert ties_of(mha.find_attention(model)) == ([] if alike is None else [Tie(("first", "second"), alike)])


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(MODELS)), values=ROWS, terms=TERMS, budget=BUDGETS, data=st.data())
def test_prune_accepts_whatever_choose_returns(name, values, terms, budget, data):
    model = copy.deepcopy(MODELS[name][0])
    if data.draw(st.booleans()):  # pruned before, so that positions are no original numbers
        model = mha.prune(model, mha.choose(scored(model, values[::-1]), model=model, keep=0.7))
    scores = scored(model, values)
    try:
        plan = mha.choose(scores, model=model, **budget, **terms)
    except mha.MhaError:
        return
    pruned = mha.prune(model, plan)
    assert mha.plan_of(pruned) == plan
    if "parameters" in budget:
        assert parameters(pruned) <= budget["parameters"] * parameters(model) + 1e-6


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(["keys", "outputs", "everything"]), values=ROWS, budget=st.integers(0, 16))
def test_it_is_the_best_of_the_plans_that_prune_accepts(name, values, budget):
    model, alike = MODELS[name]
    scores = scored(model, values)
    plan = mha.choose(scores, model=model, heads=budget)
    pairs = [
        (first, second)
        for first, second in itertools.product(feasible(6, 3), repeat=2)
        if (first == second if alike is Alike.HEADS else {i // 2 for i in first} == {i // 2 for i in second})
    ]
    plans = [{"first": first, "second": second, "alone": alone} for first, second in pairs for alone in feasible(4, 4)]

    def size(keep):
        return sum(map(len, keep.values()))

    def worth(keep):
        return sum(scores.scores[layer][head].item() for layer, heads in keep.items() for head in heads)

    most = max(size(keep) for keep in plans if size(keep) <= budget)
    assert size(plan.keep) == most
    assert worth(plan.keep) == max(worth(keep) for keep in plans if size(keep) == most)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(["keys", "outputs"]), values=ROWS, share=st.floats(0.3, 0.95))
def test_parameters_that_are_shared_are_saved_once(name, values, share):
    """Of all numbers of heads that could be kept, none with more of the score would still have fitted."""
    model, alike = MODELS[name]
    scores = scored(model, [abs(value) + 1 for value in values])
    try:
        plan = mha.choose(scores, model=model, parameters=share)
    except mha.MhaError:
        empty = HeadPlan(dict.fromkeys(scores.scores, ()))
        assert parameters(mha.prune(model, empty)) > share * parameters(model)
        return
    assert parameters(mha.prune(model, plan)) <= share * parameters(model) + 1e-6
    if alike is Alike.HEADS and len(plan.keep["alone"]) < 4:
        head = next(head for head in range(4) if head not in plan.keep["alone"])
        more = HeadPlan({**plan.keep, "alone": (*plan.keep["alone"], head)})
        assert parameters(mha.prune(model, more)) > share * parameters(model)


def test_without_the_model_it_can_not_know():
    model = MODELS["outputs"][0]
    scores = scored(model, [*range(6), *range(6, 0, -1), *range(4)])
    with pytest.raises(mha.MhaError, match=r"share W_o\.weight"):
        mha.prune(model, mha.choose(scores, keep=0.4))
    mha.prune(model, mha.choose(scores, model=model, keep=0.4))


def test_beside_a_layer_without_scores_what_is_shared_stays_whole():
    for name in ("outputs", "keys"):
        model = MODELS[name][0]
        whole = scored(model, list(range(22)))
        scores = HeadScores({layer: whole.scores[layer] for layer in ("first", "alone")}, groups={"first": 3})
        plan = mha.choose(scores, model=model, heads=7)
        mha.prune(model, plan)
        assert len(plan.keep["first"]) == (6 if name == "outputs" else 3)


def test_heads_are_exchanged_in_all_of_them_alike():
    generator = torch.Generator().manual_seed(4)
    for name in ("outputs", "keys"):
        model = MODELS[name][0]
        blocks = {}
        for layer, heads in (("first", 6), ("second", 6), ("alone", 4)):
            rows = torch.randn(heads, heads, generator=generator)
            blocks[layer] = rows @ rows.T
        scores = scored(model, [3, 1, 2, 5, 4, 1, 1, 7], interactions=blocks)
        mha.prune(model, mha.choose(scores, model=model, keep=0.5))


@pytest.mark.parametrize("uniform", [False, True])
def test_terms_that_tied_layers_can_not_meet(uniform):
    model = MODELS["queries that are keys"][0]
    scores = scored(model, [1])
    with pytest.raises(mha.MhaError, match=r"layers 'first', 'second' share weights, and so lose heads together: they"):
        mha.choose(scores, model=model, keep=0.9, min_heads={"first": 1}, multiple_of=4, uniform=uniform)
