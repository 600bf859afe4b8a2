"""shrink with a promise in place of a budget: which model is returned, and what is refused."""

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


def drawn(count, size, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 5, 24, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.fixture
def batches():
    return drawn(8, 7, seed=1)


def forward(model, batch):
    return model(batch)


def answers(model, x):
    return model(x).mean(1)[:, 0] > 0


@pytest.fixture
def judge(model):
    """2,000 examples, on all of which the dense model is right."""
    with torch.no_grad():
        held_out = [(x, answers(model, x)) for x in drawn(4, 500, seed=2)]
    return mha.Judge(held_out, lambda model, batch: answers(model, batch[0]) == batch[1], metric="accuracy")


def test_the_smallest_of_the_ladder_that_could_be_shown_is_returned(model, batches, judge):
    small = mha.shrink(model, batches, None, forward, at_most=0.1, judge=judge, ladder=(0.75, 0.5, 0.25, 0.0))
    tested = small.certificate.rows
    assert [row.heads for row in tested] == [9, 6, 3, 0][: len(tested)]
    shown = [row.heads for row in tested if row.shown]
    assert sum(map(len, mha.plan_of(small).keep.values())) == shown[-1]
    same = mha.shrink(model, batches, None, forward, heads=shown[-1])
    assert torch.equal(small(batches[0]), same(batches[0]))
    lost = 1 - judge(small).mean()
    assert lost <= 0.1
    assert f"{12 - shown[-1]} of 12 heads removed costs at most 10.0 points of accuracy" in str(small.certificate)


def test_where_nothing_can_be_shown_it_is_a_copy_of_the_dense_model(model, batches, judge):
    before = copy.deepcopy(vars(model))
    small = mha.shrink(model, batches, None, forward, at_most=0.002, judge=judge, ladder=(0.0,))
    assert small is not model
    assert torch.equal(small(batches[0]), model(batches[0]))
    assert small.certificate.chosen is None
    assert vars(model).keys() == before.keys()


def test_a_criterion_may_choose_the_heads(model, batches, judge):
    small = mha.shrink(model, batches, None, forward, criterion="magnitude", at_most=0.3, judge=judge, ladder=(0.5,))
    expected = mha.choose(mha.score(model, None, None, "magnitude"), keep=0.5)
    assert mha.plan_of(small) == expected


def test_what_can_not_be_used(model, batches, judge):
    with pytest.raises(mha.MhaError, match=r"at_most: what is lost has to be judged; give judge="):
        mha.shrink(model, batches, None, forward, at_most=0.1)
    with pytest.raises(mha.MhaError, match=r"a budget needs no judge"):
        mha.shrink(model, batches, None, forward, judge=judge, keep=0.5)
    with pytest.raises(mha.MhaError, match=r"give at_most or a budget, got both: at_most=0.1 and keep"):
        mha.shrink(model, batches, None, forward, judge=judge, at_most=0.1, keep=0.5)
    with pytest.raises(mha.MhaError, match=r"ladder: expected shares of the heads to try"):
        mha.shrink(model, batches, None, forward, judge=judge, at_most=0.1, ladder=())
    seen = mha.Judge([(batches[2], answers(model, batches[2]))], judge.values)
    with pytest.raises(mha.MhaError, match=r"7 of the 7 examples to judge by are in the calibration set too"):
        mha.shrink(model, batches, None, forward, judge=seen, at_most=0.1)
    few = mha.Judge([(judge.batches[0][0][:20], judge.batches[0][1][:20])], judge.values)
    with pytest.raises(mha.MhaError, match=r"can't be shown with 20 examples .* it takes at least 299"):
        mha.shrink(model, batches, None, forward, judge=few, at_most=0.01)
