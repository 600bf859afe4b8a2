"""One call from a trained model to a smaller one."""

import copy

import pytest
import torch
from torch import nn

import mha


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


def test_it_is_score_choose_prune_and_compensate_in_a_row(model, batches):
    scores = mha.score(model, batches, loss)
    pruned = mha.prune(model, mha.choose(scores, keep=0.5))
    expected = mha.compensate(pruned, model, batches, forward)
    small = mha.shrink(model, batches, loss, forward, keep=0.5)
    assert mha.plan_of(small) == mha.plan_of(expected)
    assert torch.equal(small(batches[0]), expected(batches[0]))


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
    mha.shrink(model, batches, loss, forward, keep=0.25)
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
