"""Slicing is masking: compared with masking, and with weights cut by hand."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mha
from mha import HeadPlan, MultiHeadAttention
from mha.layer.attention import attention_weights

PLAN = HeadPlan({"plain": (1, 4, 6), "grouped": (1, 4, 9), "cross": (2,)})


def drawn_plan(data, groups: int, per_group: int) -> tuple[int, ...]:
    """Any feasible set of heads: the same number in each of any set of groups."""
    kept_groups = data.draw(st.sets(st.integers(0, groups - 1)))
    count = data.draw(st.integers(1, per_group))
    within = st.sets(st.integers(0, per_group - 1), min_size=count, max_size=count)
    return tuple(group * per_group + head for group in kept_groups for head in data.draw(within))


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), dtype=st.sampled_from([torch.float64, torch.float32]), bias=st.booleans(), seed=st.integers(0, 99)
)
def test_sliced_equals_masked_for_any_plan(data, dtype, bias, seed):
    per_group = data.draw(st.sampled_from([1, 2, 3]))
    torch.manual_seed(seed)
    attention = MultiHeadAttention(
        13, 17, 19, 23, 5 * per_group, bias=bias, head_dim=7, num_kv_heads=5, dropout=0.3
    ).to(dtype)
    plan = HeadPlan({"": drawn_plan(data, 5, per_group)})
    args = torch.randn(2, 11, 17, dtype=dtype), torch.randn(2, 3, 13, dtype=dtype), torch.randn(2, 3, 19, dtype=dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert mha.check(attention, plan, args, {"valid_lens": torch.tensor([1, 3])}) <= tolerance


def test_check_finds_a_head_sliced_wrongly(model, inputs, monkeypatch):
    """The proof must be able to fail: keep the neighbour of one head instead of it."""
    from mha.pruning import cut

    honest = cut.kept_indices

    def off_by_one(axis, sizes, heads, groups):
        return honest(axis, sizes, [head - 1 if head == 4 else head for head in heads], groups)

    monkeypatch.setattr(cut, "kept_indices", off_by_one)
    with pytest.raises(
        mha.EquivalenceError, match=r"output: sliced differs from masked by .*, allowed is .* \(1e-10 of"
    ):
        mha.check(model, HeadPlan({"plain": (1, 4, 6)}), inputs)


def test_rows_and_columns_are_those_of_the_kept_heads(model):
    pruned = mha.prune(model, HeadPlan({"grouped": (1, 4, 9)}))
    query_rows = [*range(11, 22), *range(44, 55), *range(99, 110)]
    group_rows = [*range(11), *range(22, 33), *range(44, 55)]
    for name, rows in (("W_q", query_rows), ("W_k", group_rows), ("W_v", group_rows)):
        assert torch.equal(pruned.grouped.get_submodule(name).weight, model.grouped.get_submodule(name).weight[rows])
    assert torch.equal(pruned.grouped.W_o.weight, model.grouped.W_o.weight[:, query_rows])
    assert (pruned.grouped.num_heads, pruned.grouped.num_kv_heads) == (3, 3)
    assert (pruned.grouped.W_q.out_features, pruned.grouped.W_o.in_features) == (33, 33)


def test_biases_go_with_their_rows(model):
    pruned = mha.prune(model, HeadPlan({"plain": (0, 5)}))
    rows = [0, 1, 2, 15, 16, 17]
    assert torch.equal(pruned.plain.W_q.bias, model.plain.W_q.bias[rows])
    assert torch.equal(pruned.plain.W_o.bias, model.plain.W_o.bias)


def test_parameter_count_falls_exactly(model):
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    def cost(inputs, head_dim, bias):  # of one head with its own key and value: q, k, v, o
        return sum(inputs) * head_dim + (3 * head_dim if bias else 0)

    pruned = mha.prune(model, PLAN)
    plain = 4 * cost((23, 23, 23, 23), 3, True)
    grouped = 7 * cost((23, 23), 11, False) + 2 * cost((23, 23), 11, False)
    cross = 2 * cost((23, 17, 17, 23), 13, True)
    assert count(model) - count(pruned) == plain + grouped + cross


def test_original_is_untouched_and_shares_nothing(model, inputs):
    before, output = copy.deepcopy(model.state_dict()), model(*inputs)
    pruned = mha.prune(model, PLAN)
    nn.init.zeros_(pruned.plain.W_o.weight)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(model(*inputs), output)
    assert mha.plan_of(model) == HeadPlan({})


def test_inplace_changes_the_model_itself(model, inputs):
    expected = mha.prune(model, PLAN)(*inputs)
    layer = model.plain
    assert mha.prune(model, PLAN, inplace=True) is model
    assert model.plain is layer
    assert torch.equal(model(*inputs), expected)


def test_gradients_flow_and_frozen_parameters_stay_frozen(model, inputs):
    model.plain.W_k.requires_grad_(False)
    pruned = mha.prune(model, PLAN)
    pruned(*inputs).sum().backward()
    assert not pruned.plain.W_k.weight.requires_grad
    assert pruned.plain.W_q.weight.grad.abs().sum() > 0
    assert pruned.grouped.W_k.weight.grad.shape == (33, 23)


def test_modes_and_hooks_survive(model, inputs):
    calls = []
    model.plain.W_o.register_forward_hook(lambda *_: calls.append(1))
    model.cross.train()
    pruned = mha.prune(model, PLAN)
    pruned(*inputs)
    assert calls == [1]
    assert pruned.cross.training
    assert not pruned.plain.training


def test_a_layer_without_heads_adds_its_output_bias(model, inputs):
    plan = HeadPlan({"plain": (), "grouped": ()})
    pruned = mha.prune(model, plan)
    x = torch.randn(2, 3, 23, dtype=torch.float64)
    assert torch.equal(pruned.plain(x, x, x), model.plain.W_o.bias.expand(2, 3, 23))
    assert not pruned.grouped(x, x, x).any()  # it has no bias
    _, weights = pruned.plain(x, x, x, need_weights=True)
    assert weights.shape == (2, 0, 3, 3)
    assert sum(p.numel() for p in pruned.plain.parameters()) == 23
    assert mha.check(model, plan, inputs) < 1e-10


def test_output_without_heads_may_be_changed_in_place(model):
    pruned = mha.prune(model, HeadPlan({"plain": ()}))
    x = torch.randn(2, 3, 23, dtype=torch.float64)
    output = pruned.plain(x, x, x)
    output += 1
    assert torch.equal(pruned.plain.W_o_without_heads.bias, model.plain.W_o.bias)


def test_pruning_twice_composes_in_original_numbers(model, inputs):
    first = mha.prune(model, HeadPlan({"plain": (1, 2, 4, 6), "grouped": (0, 1, 4, 5, 8, 9)}))
    second = mha.prune(first, HeadPlan({"plain": (2, 6), "grouped": (1, 8)}))
    once = mha.prune(model, HeadPlan({"plain": (2, 6), "grouped": (1, 8)}))
    assert all(torch.equal(once.state_dict()[key], value) for key, value in second.state_dict().items())
    assert mha.find_attention(second)["grouped"].heads == (1, 8)
    assert mha.find_attention(second)["grouped"].groups == (0, 4)
    assert mha.plan_of(second) == HeadPlan({"plain": (2, 6), "grouped": (1, 8)})
    assert mha.check(first, HeadPlan({"grouped": (0, 5)}), inputs) < 1e-10


def test_plan_of_gives_back_the_plan(model):
    plan = HeadPlan({"plain": range(7), "grouped": (), "cross": (1,)})
    assert mha.plan_of(mha.prune(model, plan)) == plan


def test_a_mask_made_for_all_heads_is_gathered(model):
    x = torch.randn(2, 11, 23, dtype=torch.float64)
    mask = torch.rand(2, 7, 11, 11) > 0.4
    plan = HeadPlan({"": (1, 4, 6)})
    assert mha.check(model.plain, plan, (x, x, x), {"attn_mask": mask}) < 1e-10
    pruned = mha.prune(model.plain, plan)
    q = pruned.W_q(x).unflatten(-1, (3, 3)).transpose(1, 2)
    k = pruned.W_k(x).unflatten(-1, (3, 3)).transpose(1, 2)
    _, weights = pruned(x, x, x, attn_mask=mask, need_weights=True)
    torch.testing.assert_close(weights, attention_weights(q, k, mask[:, [1, 4, 6]]))


def test_check_leaves_the_model_as_it_was(model, inputs):
    model.train()
    hooks = len(model.plain.W_o._forward_pre_hooks)
    mha.check(model, PLAN, inputs)
    assert all(module.training for module in model.modules())
    assert len(model.plain.W_o._forward_pre_hooks) == hooks


def test_check_refuses_nan(model, inputs):
    model.classify.weight.data[0, 0] = float("nan")
    with pytest.raises(mha.EquivalenceError, match=r"output: sliced differs from masked by nan"):
        mha.check(model, PLAN, inputs)


def test_pruning_works_without_data(model):
    pruned = mha.prune(model.to("meta"), PLAN)
    assert pruned.grouped.W_o.weight.shape == (23, 33)
    assert pruned.grouped.W_o.weight.is_meta


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"plane": (0,)}, r"layer 'plane' is not in the model; did you mean 'plain'\? its attention layers are"),
        ({"plain": (1, 7)}, r"layer 'plain': heads \[7\] do not exist; it was made with 7 heads"),
        (
            {"grouped": (0, 1, 2)},
            r"layer 'grouped': every key/value group that stays must keep the same number of query heads, "
            r"got group 0: \[0, 1\], group 1: \[2\]",
        ),
    ],
)
def test_wrong_plans_are_refused_before_anything_changes(model, keep, message):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(mha.MhaError, match=message):
        mha.prune(model, HeadPlan({"cross": (0,)} | keep), inplace=True)
    assert model.cross.num_heads == 3
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_heads_pruned_before_are_refused(model):
    pruned = mha.prune(model, HeadPlan({"plain": (1, 4)}))
    with pytest.raises(
        mha.MhaError, match=r"layer 'plain': heads \[0\] have been pruned before; still present are \[1, 4\]"
    ):
        mha.prune(pruned, HeadPlan({"plain": (0, 1)}))


def test_modules_of_no_known_family_are_refused(model):
    with pytest.raises(
        mha.UnsupportedModule, match=r"layer 'embed' is a Linear, which is of no known attention family"
    ):
        mha.prune(model, HeadPlan({"embed": (0,)}))
    with pytest.raises(mha.UnsupportedModule, match=r"the model has no attention of a known family"):
        mha.prune(nn.Sequential(nn.Linear(3, 5)), HeadPlan({"attention": (0,)}))


def test_weights_changed_by_hand_are_refused(model):
    model.plain.num_heads = model.plain.num_kv_heads = 5
    with pytest.raises(mha.MhaError, match=r"W_q.weight has 21 positions along dimension 0, but 5 heads of width 3"):
        mha.prune(model, HeadPlan({"plain": (0,)}))


def test_parametrized_projections_are_refused(model):
    nn.utils.parametrizations.weight_norm(model.plain.W_k)
    with pytest.raises(mha.UnsupportedModule, match=r"layer 'plain': W_k is a ParametrizedLinear"):
        mha.prune(model, HeadPlan({"plain": (0,)}))


def test_a_plan_must_be_a_plan(model):
    with pytest.raises(mha.MhaError, match=r"expected a HeadPlan, got dict; wrap it"):
        mha.prune(model, {"plain": (0,)})
