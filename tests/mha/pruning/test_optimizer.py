"""Training goes on after pruning as it would have with the heads masked."""

import copy

import pytest
import torch
from torch import nn

import mha
from mha.pruning.resolve import kept_entries

PLAN = mha.HeadPlan({"plain": (0, 2, 3, 6), "grouped": (0, 1, 6, 7), "cross": ()})
OF_TWO = mha.HeadPlan({"plain": (0, 2, 3, 6), "grouped": (0, 1, 6, 7)})
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
        there = dict(large.named_parameters())
        expected = there[name if name in there else name.replace("W_o_without_heads", "W_o")].detach()
        for dim, index in entries.get(name, {}).items():
            expected = expected.index_select(dim, index)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-9, atol=1e-12, msg=name)


def train_side_by_side(large, small, plan, optimizers, batches, loss, steps):
    """Train a model with masked heads, and the one that was pruned by the same plan; what stays must be the same.

    Args:
        optimizers: that of the large model, and that of the small one.
    """
    entries = kept_entries(large, plan)
    with mha.masked(large, plan):
        train(large, optimizers[0], batches, loss, steps)
    train(small, optimizers[1], batches, loss, steps)
    assert_same_where_kept(small, large, entries)


@pytest.mark.parametrize("maker", MAKERS)
def test_training_goes_on_as_with_masked_heads(model, batches, loss, maker):
    optimizer = MAKERS[maker](groups_of(model))
    train(model, optimizer, batches, loss, 5)
    pruned = mha.prune(model, PLAN)
    sliced = mha.slice_optimizer(optimizer, model, pruned)
    assert type(sliced) is type(optimizer)
    assert [group["lr"] for group in sliced.param_groups] == [0.003, 0.01]
    train_side_by_side(model, pruned, PLAN, (optimizer, sliced), batches, loss, 4)


def test_a_fresh_optimizer_would_not_do(model, batches, loss):
    """That the state matters: without it the same steps lead elsewhere."""
    optimizer = MAKERS["adamw"](groups_of(model))
    train(model, optimizer, batches, loss, 5)
    pruned = mha.prune(model, PLAN)
    fresh = MAKERS["adamw"](groups_of(pruned))
    with pytest.raises(AssertionError, match=r"\.weight$"):
        train_side_by_side(model, pruned, PLAN, (optimizer, fresh), batches, loss, 4)


def test_of_a_model_that_was_pruned_before(model, batches, loss):
    first = mha.prune(model, mha.HeadPlan({"plain": (0, 2, 3, 5, 6), "cross": (0, 2)}))
    optimizer = MAKERS["adamw"](groups_of(first))
    train(first, optimizer, batches, loss, 3)
    plan = mha.HeadPlan({"plain": (2, 5), "cross": (2,)})
    second = mha.prune(first, plan)
    sliced = mha.slice_optimizer(optimizer, first, second)
    train_side_by_side(first, second, plan, (optimizer, sliced), batches, loss, 3)


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


IN_PLACE = {
    **MAKERS,
    "adamw foreach": lambda groups: torch.optim.AdamW(groups, lr=0.01, foreach=True),
    "adamw fused": lambda groups: torch.optim.AdamW(groups, lr=0.01, fused=True),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=0.01),
    "rprop": lambda groups: torch.optim.Rprop(groups, lr=0.01),
    "asgd": lambda groups: torch.optim.ASGD(groups, lr=0.01),
}


def parameters_of(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("maker", IN_PLACE)
def test_in_place_training_goes_on_as_with_masked_heads(model, batches, loss, maker):
    optimizer = IN_PLACE[maker](groups_of(model))
    train(model, optimizer, batches, loss, 5)
    twin, other = copy.deepcopy((model, optimizer))
    schedules = [torch.optim.lr_scheduler.StepLR(one, 2, gamma=0.5) for one in (optimizer, other)]
    entries = kept_entries(model, PLAN)
    assert mha.prune(model, PLAN, inplace=True, optimizer=optimizer) is model
    with mha.masked(twin, PLAN):
        for steps in range(3):
            train(twin, other, batches[steps:], loss, 2)
            schedules[1].step()
    for steps in range(3):
        train(model, optimizer, batches[steps:], loss, 2)
        schedules[0].step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0015, 0.005]
    if maker != "rprop":  # whose steps go by the sign of a gradient, and some are rounding
        assert_same_where_kept(model, twin, entries)
    trained = {id(parameter) for parameter in model.parameters()} - set(map(id, model.classify.parameters()))
    assert {id(parameter) for parameter in parameters_of(optimizer)} == trained
    assert {id(parameter) for parameter in optimizer.state} <= trained


def test_without_the_optimizer_what_was_replaced_is_trained_no_more(model, batches, loss):
    """The fault that `optimizer=` is for."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mha.prune(model, PLAN, inplace=True)
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, batches, loss, 2)
    assert torch.equal(model.plain.W_q.weight, before["plain.W_q.weight"])
    assert not torch.equal(model.embed.weight, before["embed.weight"])


def test_in_place_the_optimizer_stays_the_same_object(model, batches, loss):
    optimizer = torch.optim.AdamW(groups_of(model), lr=0.01)
    train(model, optimizer, batches, loss, 2)
    held = [optimizer.state, *(part for group in optimizer.param_groups for part in (group, group["params"]))]
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    count = len(parameters_of(optimizer))
    mha.prune(model, PLAN, inplace=True, optimizer=optimizer)
    now = [optimizer.state, *(part for group in optimizer.param_groups for part in (group, group["params"]))]
    assert all(one is other for one, other in zip(held, now, strict=True))
    assert [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups] == options
    assert len(parameters_of(optimizer)) == count - 7  # all but the output's bias has left with the heads of `cross`
    restored = torch.optim.AdamW(groups_of(model), lr=0.01)
    restored.load_state_dict(optimizer.state_dict())


def test_in_place_pending_gradients_and_a_scaler_go_along(model, batches, loss):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    scaler.scale(loss(model, batches[0])).backward()
    twin, other = copy.deepcopy((model, optimizer))
    loss(twin, batches[0]).backward()
    mha.prune(model, PLAN, inplace=True, optimizer=optimizer)
    scaler.scale(loss(model, batches[1])).backward()
    scaler.step(optimizer)
    scaler.update()
    with mha.masked(twin, PLAN):
        loss(twin, batches[1]).backward()
    other.step()
    entries = kept_entries(twin, PLAN)
    assert_same_where_kept(model, twin, entries)


class Accelerated(torch.optim.Optimizer):
    """As accelerate wraps one: the state and groups are those of what it holds."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)
    defaults = property(lambda self: self.optimizer.defaults)

    def step(self):
        self.optimizer.step()

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


def test_accelerates_wrapper(model, batches, loss):
    wrapped = Accelerated(torch.optim.AdamW(groups_of(model), lr=0.01))
    train(model, wrapped, batches, loss, 3)
    twin, plain = copy.deepcopy((model, wrapped.optimizer))
    copied = mha.prune(twin, PLAN)
    sliced = mha.slice_optimizer(Accelerated(plain), twin, copied)
    assert type(sliced) is torch.optim.AdamW
    mha.prune(model, PLAN, inplace=True, optimizer=wrapped)
    for one, steps in ((copied, sliced), (model, wrapped)):
        train(one, steps, batches, loss, 2)
    assert_same_where_kept(model, copied, {})


def test_several_optimizers(model, batches, loss):
    first = torch.optim.Adam(model.plain.parameters(), lr=0.01)
    second = torch.optim.Muon([model.grouped.W_q.weight, model.grouped.W_o.weight], lr=0.01)
    for one in (first, second):
        train(model, one, batches, loss, 2)
    twin, *others = copy.deepcopy((model, first, second))
    entries = kept_entries(model, OF_TWO)
    mha.prune(model, OF_TWO, inplace=True, optimizer=[first, second])
    assert second.state[model.grouped.W_q.weight]["momentum_buffer"].shape == (44, 23)
    train(model, first, batches, loss, 2)
    with mha.masked(twin, OF_TWO):
        train(twin, others[0], batches, loss, 2)
    assert_same_where_kept(model, twin, entries)


def test_in_place_all_or_nothing(model, batches, loss):
    good, factored = torch.optim.Adam(model.plain.parameters()), torch.optim.Adafactor(model.grouped.parameters())
    for one in (good, factored):
        train(model, one, batches, loss, 1)
    hooked = copy.deepcopy(model)
    hooked.plain.W_q.weight.register_post_accumulate_grad_hook(lambda _: None)
    of_another = torch.optim.SGD(copy.deepcopy(model).parameters())
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(good.state_dict())
    for wrong, message in (
        ([good, factored], r"grouped.W_q.weight: the optimizer's 'row_var' has not the parameter's shape"),
        (of_another, r"the SGD holds none of the model's parameters \(copies"),
        (torch.optim.LBFGS(model.parameters()), r"LBFGS remembers all parameters in one vector"),
        ("adam", r"expected a torch.optim.Optimizer, or a sequence of them, got str"),
    ):
        with pytest.raises(mha.MhaError, match=message):
            mha.prune(model, PLAN, inplace=True, optimizer=wrong)
    with pytest.raises(mha.MhaError, match=r"optimizer= goes with inplace=True; for a pruned copy, mha.slice"):
        mha.prune(model, PLAN, optimizer=good)
    with pytest.raises(mha.MhaError, match=r"plain.W_q.weight has hooks on its gradient, which would stay behind"):
        mha.prune(hooked, PLAN, inplace=True, optimizer=torch.optim.SGD(hooked.parameters()))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    torch.testing.assert_close(good.state_dict(), state, rtol=0, atol=0)
    assert mha.plan_of(model) == mha.HeadPlan({})


def test_in_place_what_is_tied_is_trained_once(model, batches, loss):
    model.plain.W_v = model.plain.W_k
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, batches, loss, 2)
    twin, other = copy.deepcopy((model, optimizer))
    entries = kept_entries(model, PLAN)
    mha.prune(model, PLAN, inplace=True, optimizer=optimizer)
    train(model, optimizer, batches, loss, 2)
    with mha.masked(twin, PLAN):
        train(twin, other, batches, loss, 2)
    assert_same_where_kept(model, twin, entries)
