"""One call from a trained model to a smaller one."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from mha.repair.candidates import Search, candidates
from mha.repair.repaired_leave_one_out import resolved_scores
from torch import nn

import mha
from mha.repair.least_squares import DAMPING_OF_REMOVAL
from mha.repair.observe import calling_outputs, moments_of


@pytest.fixture
def model():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, nhead=4, dim_feedforward=37, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).double().eval()


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(7, 5, 24, generator=generator, dtype=torch.float64) for _ in range(8)]


def loss(model, batch):
    return (model(batch) - batch).square().mean()


def forward(model, batch):
    return model(batch)


def test_with_a_criterion_it_is_score_choose_prune_and_compensate_in_a_row(model, batches):
    scores = mha.score(model, batches, loss)
    pruned = mha.prune(model, mha.choose(scores, keep=0.5))
    expected = mha.compensate(pruned, model, batches, forward)
    small = mha.shrink(model, batches, loss, forward, criterion="default", keep=0.5)
    assert mha.plan_of(small) == mha.plan_of(expected)
    assert torch.equal(small(batches[0]), expected(batches[0]))


def test_the_best_of_the_ways_is_kept_by_the_loss_or_without_one_by_the_distance(model, batches):
    """Here both mean the same, and each way's result is known by itself."""
    own = mha.score(model, batches, loss, "leave_one_out")
    search = Search(
        model=model,
        batches=batches,
        forward=forward,
        distance=mha.repair.distill.relative_error,
        rounds=3,
        budget={"heads": 5},
    )
    ways = list(candidates(search, own))
    assert len(ways) == 3
    with torch.no_grad():
        losses = [sum(loss(way, batch).item() for batch in batches) for way in ways]
        pairs = [(way, batch) for way in ways for batch in batches]
        errors = torch.tensor([mha.repair.distill.relative_error(way(batch), model(batch)) for way, batch in pairs])
    best = ways[losses.index(min(losses))]
    nearest = ways[int(errors.view(3, -1).sum(1)[1:].argmin()) + 1]  # without a loss its leave-one-out is not there
    assert torch.equal(mha.shrink(model, batches, loss, forward, rounds=3, heads=5)(batches[0]), best(batches[0]))
    assert torch.equal(mha.shrink(model, batches, None, forward, rounds=3, heads=5)(batches[0]), nearest(batches[0]))


def test_the_heads_that_others_can_stand_in_for_leave(model, batches):
    """In the middle layer heads 1 and 3 see what heads 0 and 2 see; nothing is lost without them."""
    attention = model.layers[1].self_attn
    rows = torch.arange(72).view(3, 4, 6)
    for copied, head in ((1, 0), (3, 2)):
        attention.in_proj_weight.data[rows[:, copied].flatten()] = attention.in_proj_weight.data[
            rows[:, head].flatten()
        ]
        attention.in_proj_bias.data[rows[:, copied].flatten()] = attention.in_proj_bias.data[rows[:, head].flatten()]
    small = mha.shrink(model, batches, None, forward, heads=10)
    kept = mha.plan_of(small).keep["layers.1.self_attn"]
    assert len(kept) == 2
    assert {head // 2 for head in kept} == {0, 1}
    with torch.no_grad():
        assert mha.repair.distill.relative_error(small(batches[0]), model(batches[0])) < 1e-6


def test_scores_are_what_the_outputs_lose_when_the_layer_is_solved_again(model, batches):
    """By hand: the layer's context without a head, fitted to the layer's output, and the model run with that."""
    wanted = [model(batch).detach() for batch in batches]

    def measure(small, part):
        return mha.repair.distill.relative_error(small(part[0]), part[1]).item()

    judged = list(zip(batches, wanted, strict=True))[:2]
    scores = resolved_scores(model, batches, forward, measure, judged)
    assert {name: len(row) for name, row in scores.scores.items()} == {f"layers.{i}.self_attn": 4 for i in range(3)}
    for name, head in (("layers.1.self_attn", 2), ("layers.0.self_attn", 0)):
        changed = copy.deepcopy(model)
        projection = changed.get_submodule(name).out_proj
        layer = mha.find_attention(changed)[name]
        with calling_outputs(mha.find_attention(changed)):
            moments = moments_of(changed, [f"{name}.out_proj"], batches, forward)[f"{name}.out_proj"]
        kept = [column for column in range(24) if column // 6 != head]
        assert layer.head_dim == 6
        gram = moments.centred().xx
        strength = DAMPING_OF_REMOVAL * gram.diagonal().mean()
        x, own = gram[kept][:, kept] + strength * torch.eye(18), [c for c in range(24) if c // 6 == head]
        change = torch.linalg.solve(x, gram[kept][:, own] @ projection.weight[:, own].T).T
        before = projection.weight.detach().clone()
        projection.weight.data[:, kept] += change.detach()
        projection.weight.data[:, own] = 0
        projection.bias.data += (before - projection.weight.detach()) @ moments.x / moments.n
        with torch.no_grad():
            expected = sum(measure(changed, part) for part in judged) / 2
        assert scores.scores[name][head].item() == pytest.approx(expected, rel=1e-6)


def test_a_model_that_can_not_be_replayed_gives_the_same_scores(model, batches):
    class Changing(nn.Module):
        """Adds to a layer's output in place."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x):
            for layer in self.inner.layers:
                x = layer(x)
                x += 0.0
            return x

    wanted = [(batch, model(batch).detach()) for batch in batches[:2]]

    def measure(small, part):
        return (small(part[0]) - part[1]).square().mean().item()

    plain = resolved_scores(model, batches, forward, measure, wanted)
    changing = resolved_scores(Changing(), batches, forward, measure, wanted)
    for name, row in plain.scores.items():
        torch.testing.assert_close(changing.scores[f"inner.{name}"], row, rtol=1e-6, atol=1e-12)


def test_it_comes_closer_to_the_dense_model_than_pruning_alone(model, batches):
    unseen = torch.randn(19, 5, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    small = mha.shrink(model, batches, loss, forward, heads=6)
    cut = mha.prune(model, mha.plan_of(small))
    assert sum(len(heads) for heads in mha.plan_of(small).keep.values()) == 6
    with torch.no_grad():
        dense = model(unseen)
        assert (small(unseen) - dense).square().mean() < 0.7 * (cut(unseen) - dense).square().mean()


def test_the_criterion_and_a_floor_are_the_callers(model, batches):
    small = mha.shrink(model, batches, loss, forward, criterion="magnitude", heads=7, min_heads=2)
    expected = mha.choose(mha.score(model, None, None, "magnitude"), heads=7, min_heads=2)
    assert mha.plan_of(small) == expected


def test_the_model_is_left_as_it_was(model, batches):
    before = copy.deepcopy(model.state_dict())
    model.layers[0].train()
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    mha.shrink(model, batches, loss, forward, keep=0.25)
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert all("forward" not in vars(module) and not module._forward_hooks for module in model.modules())
    assert mha.plan_of(model) == mha.HeadPlan({})
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("budget", "error", "message"),
    [
        ({}, mha.MhaError, "exactly one budget"),
        ({"keep": 0.5, "heads": 3}, mha.MhaError, "exactly one budget"),
        ({"keep": 1.5}, mha.MhaError, "between 0 and 1"),
        ({"kept": 0.5}, TypeError, "kept"),
    ],
)
def test_a_wrong_budget_is_refused_before_any_work(model, batches, budget, error, message):
    def never(_model, _batch):
        raise AssertionError("scored before the budget was looked at")

    with pytest.raises(error, match=message):
        mha.shrink(model, batches, never, forward, **budget)


def test_grouped_attention_gets_a_feasible_plan():
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                mha.MultiHeadAttention.square(24, 6, head_dim=5, num_kv_heads=3) for _ in range(2)
            )

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(x, x, x, is_causal=True)
            return x

    torch.manual_seed(4)
    model = Grouped().double().eval()
    batches = [torch.randn(7, 5, 24, dtype=torch.float64) for _ in range(4)]
    small = mha.shrink(model, batches, None, forward, heads=5)
    assert sum(len(heads) for heads in mha.plan_of(small).keep.values()) <= 5
    with torch.no_grad():
        cut = mha.prune(model, mha.plan_of(small))
        assert (small(batches[0]) - model(batches[0])).norm() < (cut(batches[0]) - model(batches[0])).norm()


@pytest.mark.parametrize("budget", [{"parameters": 0.8}, {"heads": 0}, {"keep": 1.0}])
def test_every_kind_of_budget_is_met(model, batches, budget):
    small = mha.shrink(model, batches, None, forward, rounds=2, **budget)
    share = sum(one.numel() for one in small.parameters()) / sum(one.numel() for one in model.parameters())
    kept = sum(len(heads) for heads in mha.plan_of(small).keep.values())
    assert share <= budget.get("parameters", 1.0)
    assert kept == {"heads": 0, "keep": 12}.get(next(iter(budget)), kept)


def test_a_distance_of_ones_own_is_what_counts(model, batches):
    """Only the first position matters, so the heads that serve the others leave."""

    def first(found, wanted):
        return (found[:, 0] - wanted[:, 0]).square().mean()

    calls = []

    def noted(found, wanted):
        calls.append(found.shape)
        return first(found, wanted)

    mha.shrink(model, batches, None, forward, rounds=1, distance=noted, heads=6)
    assert len(calls) >= 12 * 4


def test_what_can_not_be_used(model, batches):
    with pytest.raises(mha.MhaError, match=r"the calibration set is empty"):
        mha.shrink(model, [], loss, forward, keep=0.5)
    with pytest.raises(mha.MhaError, match=r"rounds must be at least 1, got 0"):
        mha.shrink(model, batches, loss, forward, rounds=0, keep=0.5)
    with pytest.raises(mha.MhaError, match=r"unknown criterion 'taylr'"):
        mha.shrink(model, batches, loss, forward, criterion="taylr", keep=0.5)


def test_only_plans_that_are_the_callers_are_warned_of(model, batches, monkeypatch):
    """Not those on the way; and nothing is ignored for a time, which would be so in every thread."""
    layers = {name: SimpleNamespace(heads=layer.heads, groups=layer.num_kv_heads)
              for name, layer in mha.find_attention(model).items()}  # fmt: skip
    costs = SimpleNamespace(layers=layers, latency=lambda _: SimpleNamespace(share=1.5))
    filtering, really = [], warnings.simplefilter
    monkeypatch.setattr("warnings.simplefilter", lambda *given, **how: filtering.append(given) or really(*given, **how))
    with pytest.warns(mha.SlowPlanWarning, match="keeps 6 of 12 heads") as told:
        mha.shrink(model, batches[:2], None, forward, keep=0.5, rounds=3, costs=costs)
    assert len(told) == 2  # of two ways; two plans on the way keep 8 and 10
    assert not [given for given in filtering if mha.SlowPlanWarning in given]
