"""Training goes on after pruning as it would have with the heads masked."""

import copy

import pytest
import torch
from torch import nn

import mha
from mha.pruning import kept_entries

PLAN = mha.HeadPlan({"plain": (0, 2, 3, 6), "grouped": (0, 1, 6, 7), "cross": ()})
MAKERS = {
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, amsgrad=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.5, centered=True),
}


def groups_of(model):
    """Two groups, one with its own learning rate; the classifier is in none."""
    first = [*model.embed.parameters(), *model.plain.parameters()]
    rest = [*model.grouped.parameters(), *model.cross.parameters()]
    return [{"params": first, "lr": 0.003}, {"params": rest}]


def train(model, optimizer, batches, loss, steps):
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, batches[step % len(batches)]).backward()
        optimizer.step()


def assert_same_where_kept(small, large, entries):
    """Key biases aside: attention does not depend on them, so their gradient is rounding, which Adam makes large."""
    for name, parameter in small.named_parameters():
        if name.endswith("W_k.bias"):
            continue
        expected = dict(large.named_parameters())[name].detach()
        for dim, index in entries.get(name, {}).items():
            expected = expected.index_select(dim, index)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("maker", MAKERS)
def test_training_goes_on_as_with_masked_heads(model, batches, loss, maker):
    optimizer = MAKERS[maker](groups_of(model))
    train(model, optimizer, batches, loss, 5)
    pruned = mha.prune(model, PLAN)
    sliced = mha.slice_optimizer(optimizer, model, pruned)
    assert type(sliced) is type(optimizer)
    assert [group["lr"] for group in sliced.param_groups] == [0.003, 0.01]
    entries = kept_entries(model, PLAN)
    with mha.masked(model, PLAN):
        train(model, optimizer, batches, loss, 4)
    train(pruned, sliced, batches, loss, 4)
    assert_same_where_kept(pruned, model, entries)


def test_a_fresh_optimizer_would_not_do(model, batches, loss):
    """That the state matters: without it the same steps lead elsewhere."""
    optimizer = MAKERS["adamw"](groups_of(model))
    train(model, optimizer, batches, loss, 5)
    pruned = mha.prune(model, PLAN)
    fresh = MAKERS["adamw"](groups_of(pruned))
    with mha.masked(model, PLAN):
        train(model, optimizer, batches, loss, 4)
    train(pruned, fresh, batches, loss, 4)
    with pytest.raises(AssertionError):
        assert_same_where_kept(pruned, model, kept_entries(model, PLAN))


def test_of_a_model_that_was_pruned_before(model, batches, loss):
    first = mha.prune(model, mha.HeadPlan({"plain": (0, 2, 3, 5, 6), "cross": (0, 2)}))
    optimizer = MAKERS["adamw"](groups_of(first))
    train(first, optimizer, batches, loss, 3)
    plan = mha.HeadPlan({"plain": (2, 5), "cross": (2,)})
    second = mha.prune(first, plan)
    sliced = mha.slice_optimizer(optimizer, first, second)
    entries = kept_entries(first, plan)
    with mha.masked(first, plan):
        train(first, optimizer, batches, loss, 3)
    train(second, sliced, batches, loss, 3)
    assert_same_where_kept(second, first, entries)


def test_the_given_optimizer_and_models_are_left_as_they_were(model, batches, loss):
    optimizer = MAKERS["adam"](groups_of(model))
    train(model, optimizer, batches, loss, 2)
    pruned = mha.prune(model, PLAN)
    before, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    sliced = mha.slice_optimizer(optimizer, model, pruned)
    train(pruned, sliced, batches, loss, 2)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for number, state in before["state"].items():
        assert all(torch.equal(value, after["state"][number][key]) for key, value in state.items())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    restored = MAKERS["adam"](groups_of(pruned))
    restored.load_state_dict(sliced.state_dict())  # a state dict like any other


def test_frozen_parameters_and_groups_without_state(model, batches, loss):
    model.embed.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sliced = mha.slice_optimizer(optimizer, model, mha.prune(model, PLAN))
    assert not sliced.state
    train(model, optimizer, batches, loss, 2)
    pruned = mha.prune(model, PLAN)
    sliced = mha.slice_optimizer(optimizer, model, pruned)
    assert pruned.embed.weight not in sliced.state
    assert not pruned.embed.weight.requires_grad


def test_tied_parameters_stay_tied(model, batches, loss):
    model.again = nn.Linear(5, 23)
    model.again.weight = model.embed.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, batches, loss, 2)
    pruned = mha.prune(model, PLAN)
    sliced = mha.slice_optimizer(optimizer, model, pruned)
    assert pruned.again.weight is pruned.embed.weight
    assert sum(one is pruned.embed.weight for group in sliced.param_groups for one in group["params"]) == 1


def test_nothing_pruned_is_a_copy_for_the_other_model(model, batches, loss):
    optimizer = MAKERS["adamw"](groups_of(model))
    train(model, optimizer, batches, loss, 2)
    twin = copy.deepcopy(model)
    sliced = mha.slice_optimizer(optimizer, model, twin)
    train(model, optimizer, batches, loss, 2)
    train(twin, sliced, batches, loss, 2)
    assert_same_where_kept(twin, model, {})


def test_models_and_optimizers_that_do_not_belong_together(model, batches, loss):
    optimizer = MAKERS["adamw"](groups_of(model))
    train(model, optimizer, batches, loss, 1)
    with pytest.raises(mha.MhaError, match=r"group 0 of the optimizer holds a parameter of shape \(23, 5\) that is"):
        mha.slice_optimizer(optimizer, copy.deepcopy(model), mha.prune(model, PLAN))
    with pytest.raises(mha.MhaError, match=r"only one of the two has the layers \['', 'cross', 'grouped', 'plain'\]"):
        mha.slice_optimizer(optimizer, model, model.plain)
    other = mha.prune(model, PLAN)
    other.embed = nn.Linear(5, 29)
    with pytest.raises(mha.MhaError, match=r"embed.weight has shape \(29, 5\) in `after`; .* gives \(23, 5\)"):
        mha.slice_optimizer(optimizer, model, other)
    smaller = mha.prune(model, mha.HeadPlan({"plain": (0, 1)}))
    with pytest.raises(mha.MhaError, match=r"layer 'plain': heads \[2, 3, 6\] have been pruned before"):
        mha.slice_optimizer(torch.optim.SGD(smaller.parameters()), smaller, mha.prune(model, PLAN))


def test_state_of_another_shape_is_refused(model, batches, loss):
    optimizer = torch.optim.Adafactor(model.parameters())
    train(model, optimizer, batches, loss, 1)
    with pytest.raises(mha.MhaError, match=r"plain.W_q.weight: the optimizer's 'row_var' has not the"):
        mha.slice_optimizer(optimizer, model, mha.prune(model, PLAN))
