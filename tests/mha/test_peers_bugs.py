"""Mistakes that other head pruners have made, each named after what went wrong there."""

import copy

import pytest
import torch

import mha
from mha import HeadPlan
from mha.values.errors import PlanError
from tests.mha.support.cases import CASES, make

GROUPED = ["ours", "llama"]  # six heads in two groups


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return make(request.param)


@pytest.fixture(scope="module", params=GROUPED)
def grouped(request):
    return make(request.param)


def sizes(layer: mha.families.AttentionLayer) -> tuple[int, int]:
    return layer.num_heads, layer.num_kv_heads


def test_group_offsets_by_the_number_of_groups_instead_of_their_size(grouped):
    """Head 2 of six in two groups belongs to group 0 (2 // 3), not to group 1 (2 // 2)."""
    first, second = grouped.layers
    pruned = mha.prune(grouped.model, HeadPlan({first: (2,), second: (3,)}))
    layers = mha.find_attention(pruned)
    assert (layers[first].groups, layers[second].groups) == ((0,), (1,))
    for name, group, head in ((first, 0, 2), (second, 1, 3)):
        before, after = grouped.model.get_submodule(name), pruned.get_submodule(name)
        width = layers[name].head_dim
        key = "W_k" if hasattr(before, "W_k") else "k_proj"
        rows = before.get_submodule(key).weight[group * width : (group + 1) * width]
        assert torch.equal(after.get_submodule(key).weight, rows)
        rows = before.get_submodule(grouped.query).weight[head * width : (head + 1) * width]
        assert torch.equal(after.get_submodule(grouped.query).weight, rows)


def test_a_head_count_lowered_before_the_check_that_refuses_the_plan(case):
    first, second = case.layers
    model = copy.deepcopy(case.model)
    holder, _, count = case.count.rpartition(".")
    counted = model.get_submodule(f"{first}.{holder}".rstrip("."))
    before = getattr(counted, count)
    with pytest.raises(PlanError, match="do not exist"):
        mha.prune(model, HeadPlan({first: (0,), second: (77,)}), inplace=True)
    assert getattr(counted, count) == before
    assert mha.plan_of(model) == HeadPlan({})


def test_grouped_attention_taken_for_plain_once_both_counts_meet(grouped):
    """One head in each of two groups is still two groups: they leave with their heads, and the rest stays feasible."""
    first, _ = grouped.layers
    once = mha.prune(grouped.model, HeadPlan({first: (1, 4)}))
    assert sizes(mha.find_attention(once)[first]) == (2, 2)
    assert mha.check(once, HeadPlan({first: (4,)}), (), grouped.inputs, atol=1e-5) < 1e-5
    twice = mha.prune(once, HeadPlan({first: (4,)}))
    assert sizes(mha.find_attention(twice)[first]) == (1, 1)
    assert mha.find_attention(twice)[first].groups == (1,)
    directly = mha.prune(grouped.model, HeadPlan({first: (4,)}))
    assert all(map(torch.equal, twice.state_dict().values(), directly.state_dict().values()))


def test_one_group_taken_for_plain_attention(grouped):
    """Three heads of one group are grouped still: none of them has a key of its own."""
    first, _ = grouped.layers
    once = mha.prune(grouped.model, HeadPlan({first: (3, 4, 5)}))
    assert sizes(mha.find_attention(once)[first]) == (3, 1)
    assert mha.check(once, HeadPlan({first: (3, 5)}), (), grouped.inputs, atol=1e-5) < 1e-5
    assert sizes(mha.find_attention(mha.prune(once, HeadPlan({first: (3, 5)})))[first]) == (2, 1)


@pytest.mark.parametrize("heads", [(5,), (0, 5), (3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 3, 5), range(6)], ids=len)
def test_only_divisors_of_the_head_count_accepted(case, heads):
    first, second = case.layers
    plan = HeadPlan({first: heads})
    if len(heads) == 5 and mha.find_attention(case.model)[first].num_kv_heads == 2:
        with pytest.raises(PlanError, match="same number of query heads"):  # three of one group, two of the other
            mha.prune(case.model, plan)
        return
    assert mha.check(case.model, plan, (), case.inputs, atol=1e-5) < 1e-5
    layers = mha.find_attention(mha.prune(case.model, plan))
    assert (layers[first].num_heads, layers[second].num_heads) == (len(heads), 6)


@pytest.mark.parametrize("heads", [(1, 4), (2,), ()], ids=len)
def test_count_attributes_out_of_step_with_the_weights(case, heads):
    """Every attribute that counts heads or their width says what the weights say, and is found so again."""
    first, _ = case.layers
    layer = mha.find_attention(case.model)[first]
    pruned = mha.prune(case.model, HeadPlan({first: heads}))
    left = mha.find_attention(pruned)[first]
    assert left.heads == heads
    per_letter = {"h": left.num_kv_heads, "g": layer.sizes["g"], "d": left.head_dim, "e": layer.sizes.get("e", 0)}
    per_letter["g"] = left.num_heads // left.num_kv_heads if heads else per_letter["g"]
    assert layer.description.counts, "each of these has at least one"
    for name, letters in layer.description.counts.items():
        owner, _, attribute = name.rpartition(".")
        expected = 1
        for letter in letters.split():
            expected *= per_letter[letter]
        assert getattr(left.module.get_submodule(owner), attribute) == expected, name
    output = left.output
    width = getattr(output, "nx", None) or getattr(output, "in_features", 0)
    assert width == len(heads) * per_letter["d"]


def test_all_heads_of_a_layer(case):
    """A layer without heads adds its bias, whatever it is given; so does a model without any."""
    first, second = case.layers
    for plan in (HeadPlan({first: ()}), HeadPlan({second: ()}), HeadPlan({first: (), second: ()})):
        assert mha.check(case.model, plan, (), case.inputs, atol=1e-5) < 1e-5
        pruned = mha.prune(case.model, plan)
        assert mha.plan_of(pruned) == plan
        again = mha.prune(pruned, plan)
        assert mha.plan_of(again) == plan
        assert all(map(torch.equal, again.state_dict().values(), pruned.state_dict().values()))


def test_a_layer_emptied_in_two_steps_is_one_emptied_in_one(case):
    first, _ = case.layers
    empty = HeadPlan({first: ()})
    stepwise = mha.prune(mha.prune(case.model, HeadPlan({first: (3, 4)})), empty)
    directly = mha.prune(case.model, empty)
    assert stepwise.state_dict().keys() == directly.state_dict().keys()
    assert all(map(torch.equal, stepwise.state_dict().values(), directly.state_dict().values()))
