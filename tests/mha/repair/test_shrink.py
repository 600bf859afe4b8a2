"""One call from a trained model to a smaller one."""

import copy
import warnings
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mha
from mha.repair.distill import relative_error
from mha.repair.selection import plan_within
from mha.repair.shrink import _on_the_way


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
        assert relative_error(small(batches[0]), model(batches[0])) < 1e-6


def test_it_comes_closer_to_the_dense_model_than_pruning_alone(model, batches):
    unseen = torch.randn(19, 5, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    small = mha.shrink(model, batches, loss, forward, heads=6)
    cut = mha.prune(model, mha.plan_of(small))
    assert sum(len(heads) for heads in mha.plan_of(small).keep.values()) == 6
    with torch.no_grad():
        dense = model(unseen)
        assert (small(unseen) - dense).square().mean() < 0.7 * (cut(unseen) - dense).square().mean()


def test_a_loss_counts_too(model, batches):
    """It looks at the first position alone, and the outputs at all of them: the choice lies between."""

    def first(model, batch):
        return (model(batch)[:, 0] - batch[:, 0]).square().mean()

    def only_first(model, batch):
        return model(batch)[:, 0]

    plans = [
        mha.plan_of(mha.shrink(model, batches, of_labels, run, heads=6))
        for of_labels, run in ((None, forward), (first, forward), (first, only_first))
    ]
    assert plans[0] != plans[2]
    assert plans[1] != plans[0]


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


class Halves(nn.Module):
    """Heads 0 and 1 write to the first 12 features of the stream only, heads 2 and 3 to the others, and louder."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = mha.MultiHeadAttention.square(24, 4, head_dim=5)
        with torch.no_grad():
            self.attention.W_o.weight[:12, 10:] = 0.0
            self.attention.W_o.weight[12:, :10] = 0.0
            self.attention.W_o.weight[12:] *= 3.0

    def forward(self, x):
        return x + self.attention(x, x, x)


def test_a_distance_of_ones_own_is_what_counts(batches):
    """Only the first features matter, so the heads that serve the others leave."""
    torch.manual_seed(4)
    model = Halves().double().eval()

    def first(found, wanted):
        return (found[..., :12] - wanted[..., :12]).square().mean()

    for distance, kept in ((first, (0, 1)), (None, (2, 3))):
        small = mha.shrink(model, batches, None, forward, distance=distance, heads=2)
        assert mha.plan_of(small).keep["attention"] == kept


@pytest.mark.parametrize("rounds", [1, 3])
def test_in_rounds_heads_leave_little_by_little(model, batches, monkeypatch, rounds):
    """Each round reads what the one before left: heads that are gone stay gone."""
    plans = []

    def noted(*args, **kwargs):
        plans.append(plan_within(*args, **kwargs))
        return plans[-1]

    monkeypatch.setattr("mha.repair.selection.plan_within", noted)
    small = mha.shrink(model, batches, None, forward, rounds=rounds, heads=4)
    assert [sum(map(len, plan.keep.values())) for plan in plans] == [8, 6, 4][-rounds:]
    for before, after in pairwise(plans):
        assert all(set(after.keep[name]) <= set(heads) for name, heads in before.keep.items())
    assert mha.plan_of(small) == plans[-1]


def test_budgets_on_the_way_fall_by_the_same_factor():
    assert _on_the_way({"heads": 3, "min_heads": 1}, 0.5, 12) == {"heads": 6, "min_heads": 1}
    assert _on_the_way({"keep": 0.25}, 0.5, 12) == {"keep": pytest.approx(0.5)}
    assert _on_the_way({"latency": 0.125, "keep": None}, 1 / 3, 12) == {"latency": pytest.approx(0.5), "keep": None}
    assert _on_the_way({"heads": 0}, 0.25, 12) == {"heads": 9}
    assert _on_the_way({"keep": 0.0}, 0.25, 12) == {"keep": pytest.approx(0.75)}


def test_it_trains_on_the_unlabelled_batches_and_on_nothing_else(model, batches):
    """What has gradients, and is not the dense model, is trained; batches are told apart by their shape."""
    generator = torch.Generator().manual_seed(5)
    others = [torch.randn(11, 3, 24, generator=generator, dtype=torch.float64) for _ in range(8)]
    trained = []

    def noted(small, batch):
        if torch.is_grad_enabled() and mha.plan_of(small) != mha.HeadPlan({}):
            trained.append(tuple(batch.shape))
        return small(batch)

    def shrunk(**how):
        return mha.shrink(model, batches, None, noted, heads=4, **how)

    plain = shrunk()
    assert trained == []
    small = shrunk(distill="0.5s", unlabelled=iter(others))
    assert set(trained) == {(11, 3, 24)}
    with torch.no_grad():
        dense = model(others[3])
        assert relative_error(small(others[3]), dense) <= relative_error(plain(others[3]), dense)
    trained.clear()
    shrunk(distill=0.5)
    assert set(trained) == {(7, 5, 24)}


def test_what_can_not_be_used(model, batches):
    with pytest.raises(mha.MhaError, match=r"the calibration set is empty"):
        mha.shrink(model, [], loss, forward, keep=0.5)
    with pytest.raises(mha.MhaError, match=r"rounds must be at least 1, got 0"):
        mha.shrink(model, batches, loss, forward, rounds=0, keep=0.5)
    with pytest.raises(mha.MhaError, match=r"unknown criterion 'taylr'"):
        mha.shrink(model, batches, loss, forward, criterion="taylr", keep=0.5)
    with pytest.raises(mha.MhaError, match=r'expected a time such as 30, "90s", "5min" or "1h", got \'soon\''):
        mha.shrink(model, batches, loss, forward, distill="soon", keep=0.5)
    with pytest.raises(mha.MhaError, match=r"the calibration set is empty"):
        mha.shrink(model, batches, loss, forward, distill="1s", unlabelled=[], keep=0.5)


def test_only_plans_that_are_the_callers_are_warned_of(model, batches, monkeypatch):
    """Not those on the way; and nothing is ignored for a time, which would be so in every thread."""
    layers = {name: SimpleNamespace(heads=layer.heads, groups=layer.num_kv_heads)
              for name, layer in mha.find_attention(model).items()}  # fmt: skip
    costs = SimpleNamespace(layers=layers, latency=lambda _: SimpleNamespace(share=1.5))
    filtering, really = [], warnings.simplefilter
    monkeypatch.setattr("warnings.simplefilter", lambda *given, **how: filtering.append(given) or really(*given, **how))
    with pytest.warns(mha.SlowPlanWarning, match="keeps 6 of 12 heads") as told:
        mha.shrink(model, batches[:2], None, forward, keep=0.5, rounds=3, costs=costs)
    assert len(told) == 1  # two plans on the way keep 8 and 10
    assert not [given for given in filtering if mha.SlowPlanWarning in given]


@pytest.mark.parametrize("lost", [False, True])
def test_a_promise_in_place_of_a_budget(batches, lost):
    """Nothing is lost while heads 0 and 1 are there; or everything, as soon as one head is gone."""
    torch.manual_seed(4)
    model = Halves().double().eval()

    def right(small, batch):
        kept = mha.plan_of(small).keep.get("attention", (0, 1, 2, 3))
        return torch.full((len(batch),), float(len(kept) == 4 if lost else {0, 1} <= {*kept}))

    unseen = [torch.randn(97, 5, 24, generator=torch.Generator().manual_seed(9), dtype=torch.float64) for _ in range(5)]
    judge = mha.Judge(unseen, right, metric="accuracy")

    def first(found, wanted):
        return (found[..., :12] - wanted[..., :12]).square().mean()

    small = mha.shrink(
        model, batches, None, forward, distance=first, at_most=0.05, judge=judge, ladder=(0.25, 0.75, 0.5)
    )
    assert mha.plan_of(small).keep.get("attention", (0, 1, 2, 3)) == ((0, 1, 2, 3) if lost else (0, 1))
    assert (small.certificate.chosen is None) == lost
    assert small is not model
    with pytest.raises(mha.MhaError, match=r"give at_most or a budget, got both: at_most=0\.05 and keep"):
        mha.shrink(model, batches, None, forward, at_most=0.05, judge=judge, keep=0.5)
    with pytest.raises(mha.MhaError, match="at_most: what is lost has to be judged"):
        mha.shrink(model, batches, None, forward, at_most=0.05)
    with pytest.raises(mha.MhaError, match="judge: say what may be lost"):
        mha.shrink(model, batches, None, forward, judge=judge, keep=0.5)
