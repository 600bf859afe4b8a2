"""Recovery training: it helps, is deterministic, and touches nothing else."""

import copy

import pytest
import torch

import mha
from mha.repair.distill import relative_error, seconds_in

PLAN = mha.HeadPlan({"plain": (0, 2, 3), "grouped": (0, 1, 6, 7), "cross": (1,)})


def forward(model, batch):
    return model(*batch[:2])


def error(model, teacher, batches):
    with torch.no_grad():
        return sum(relative_error(forward(model, one), forward(teacher, one)).item() for one in batches)


@pytest.fixture
def more(batches):
    """Nine batches, so that two are held out."""
    generator = torch.Generator().manual_seed(17)
    return [
        tuple(part + 0.1 * torch.randn(part.shape, generator=generator) if part.is_floating_point() else part
              for part in batches[number % 3])
        for number in range(9)
    ]  # fmt: skip


def test_it_comes_closer_to_the_teacher_and_leaves_both_models_alone(model, more):
    pruned = mha.prune(model, PLAN).train()
    states = copy.deepcopy((model.state_dict(), pruned.state_dict()))
    random = torch.get_rng_state()
    trained = mha.distill(pruned, model, more, forward, steps=40, learning_rate=1e-3)
    assert trained.training
    assert error(copy.deepcopy(trained).eval(), model, more) < 0.7 * error(copy.deepcopy(pruned).eval(), model, more)
    for old, one in zip(states, (model, pruned), strict=True):
        assert all(torch.equal(value, old[name]) for name, value in one.state_dict().items())
        assert all(parameter.grad is None for parameter in one.parameters())
    assert not model.training
    assert torch.equal(random, torch.get_rng_state())
    again = mha.distill(pruned, model, more, forward, steps=40, learning_rate=1e-3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in trained.state_dict().items())


def test_training_that_does_not_help_is_dropped(model, more):
    pruned = mha.prune(model, PLAN)
    same = mha.distill(pruned, model, more, forward, steps=3, learning_rate=3.0)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in pruned.state_dict().items())


def test_training_that_goes_wrong_goes_back_to_the_best_slows_down_and_ends(model, more):
    """The distance on the held-out batches is made up: it falls, and then it is never as small again."""
    looks = iter([3.0, 2.0, 1.0, 1.5, 4.0, 1.2])
    states = []

    def noted(one, batch):
        if torch.is_grad_enabled():
            states.append(copy.deepcopy(one.state_dict()))
        return forward(one, batch)

    def distance(found, wanted):
        error = (found - wanted).square().mean()
        return error if torch.is_grad_enabled() else 0 * error + next(looks)

    pruned = mha.prune(model, PLAN)
    found = mha.distill(pruned, model, more[:7], noted, steps=80, learning_rate=1e-3, distance=distance)
    assert len(states) == 50  # looked at after every 10 steps; the last three times it was worse
    best = states[20]  # with which step 21 began, and steps 31 and 41 again
    for other in (states[30], states[40], found.state_dict()):
        assert all(torch.equal(value, best[name]) for name, value in other.items())
    moved = [sum((after[name] - best[name]).abs().sum() for name in best) for after in (states[21], states[31])]
    assert moved[1] < 0.5 * moved[0]


def test_a_learning_rate_that_is_too_high_gives_nothing_worse(model, more):
    """It diverges after a while; the result is no farther from the teacher on what was held out than at the start."""
    pruned = mha.prune(model, PLAN)
    trained = mha.distill(pruned, model, more, forward, steps=40, learning_rate=0.1)
    assert error(trained, model, [more[3], more[7]]) <= error(pruned, model, [more[3], more[7]])


def test_it_ends_with_its_time(model, more, monkeypatch):
    """By a clock on which every look takes a second: 20 steps or fewer, since each looks more than once."""
    clock = iter(range(10_000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    trained = []

    def noted(one, batch):
        if torch.is_grad_enabled():
            trained.append(1)
        return forward(one, batch)

    pruned = mha.prune(model, PLAN)
    mha.distill(pruned, model, more, noted, seconds="1min", learning_rate=1e-4, progress=False)
    assert 3 <= len(trained) <= 20


@pytest.mark.parametrize(
    ("given", "seconds"), [(30, 30.0), (0.5, 0.5), ("90s", 90.0), ("1min", 60.0), (" 2.5 min ", 150.0), ("1h", 3600.0)]
)
def test_times_that_can_be_read(given, seconds):
    assert seconds_in(given) == pytest.approx(seconds)


@pytest.mark.parametrize("given", ["soon", "", "-1s", "1.2.3s", "1day", 0, -3, float("inf"), float("nan"), [5]])
def test_times_that_can_not_be_read(given):
    with pytest.raises(mha.MhaError, match=r'expected a time such as 30, "90s", "5min" or "1h", got '):
        seconds_in(given)


def test_frozen_parameters_stay(model, more):
    pruned = mha.prune(model, PLAN)
    pruned.plain.requires_grad_(False)
    trained = mha.distill(pruned, model, more, forward, steps=20, learning_rate=1e-3)
    assert torch.equal(trained.plain.W_o.weight, pruned.plain.W_o.weight)
    assert not torch.equal(trained.cross.W_o.weight, pruned.cross.W_o.weight)


def test_with_the_optimizer_that_trained_the_teacher(model, more, loss):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for batch in more:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    pruned = mha.prune(model, PLAN)
    trained = mha.distill(pruned, model, more, forward, steps=40, optimizer=optimizer)
    assert error(trained, model, more) < error(pruned, model, more)
    assert all(
        torch.equal(value, optimizer.state_dict()["state"][number][key])
        for number, one in state["state"].items()
        for key, value in one.items()
    )


def test_a_distance_of_ones_own(model, more):
    def divergence(found, wanted):
        return torch.nn.functional.kl_div(
            found.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="batchmean"
        )

    pruned = mha.prune(model, PLAN)
    trained = mha.distill(pruned, model, more, forward, steps=40, learning_rate=1e-3, distance=divergence)
    with torch.no_grad():
        before, after = (
            sum(divergence(forward(one, batch), forward(model, batch)) for batch in more) for one in (pruned, trained)
        )
    assert after < before


def test_relative_error_is_the_share_of_the_mean_square():
    found = {"a": torch.tensor([1.0, 3.0]), "b": (torch.ones(3), 5)}
    wanted = {"a": torch.tensor([2.0, 2.0]), "b": (torch.full((3,), 0.5), 5)}
    assert relative_error(found, wanted).item() == pytest.approx(1 / 4 + 0.25 / 0.25)


def test_what_can_not_be_used(model, more):
    pruned = mha.prune(model, PLAN)
    with pytest.raises(mha.MhaError, match=r"the calibration set is empty"):
        mha.distill(pruned, model, [], forward)
    with pytest.raises(mha.MhaError, match=r"steps must be at least 1, got 0"):
        mha.distill(pruned, model, more, forward, steps=0)
    with pytest.raises(mha.MhaError, match=r"expected steps or seconds, got both: 3 and '1min'"):
        mha.distill(pruned, model, more, forward, steps=3, seconds="1min")
    with pytest.raises(mha.MhaError, match=r"expected a time such as .*, got 'soon'"):
        mha.distill(pruned, model, more, forward, seconds="soon")
    with pytest.raises(mha.MhaError, match=r"must be a finite scalar tensor, got tensor\(nan"):
        mha.distill(pruned, model, more, forward, distance=lambda one, other: (one - other).sum() * float("nan"))
    with pytest.raises(mha.MhaError, match=r"the distance to the teacher has no gradient"):
        mha.distill(pruned, model, more, lambda model, batch: forward(model, batch).detach())
    with pytest.raises(mha.MhaError, match=r"no floating tensor that could be compared"):
        mha.distill(pruned, model, more, lambda model, batch: forward(model, batch).argmax(-1))
    assert all(not module._forward_hooks for module in pruned.modules())
