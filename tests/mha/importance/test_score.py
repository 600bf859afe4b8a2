"""The first criteria, against numbers computed another way."""

import copy

import pytest
import torch
from torch import nn

import mha
from tests.mha.support.losses import examples, mean_loss
from tests.mha.support.models import LAYERS


def reweighed(model, name, factors):
    """A copy whose heads' columns of W_o are multiplied: gating, done by hand."""
    changed = copy.deepcopy(model)
    changed.get_submodule(name).W_o.weight.data *= factors.double().repeat_interleave(LAYERS[name][1])
    return changed


def test_leave_one_out_is_the_loss_without_the_head(model, batches, loss):
    scores = mha.score(model, batches, loss, "leave_one_out").scores
    dense = mean_loss(model, batches, loss)
    for name, (heads, _) in LAYERS.items():
        for head in range(heads):
            off = torch.ones(heads)
            off[head] = 0
            expected = mean_loss(reweighed(model, name, off), batches, loss) - dense
            assert scores[name][head].item() == pytest.approx(expected, abs=1e-12)


def test_taylor_is_the_mean_absolute_derivative_per_example(model, batches, loss):
    """By central differences on one example at a time; the batches have different sizes."""
    scores = mha.score(model, batches, loss, "taylor").scores
    step = 1e-5
    for name, head in (("plain", 2), ("grouped", 7), ("cross", 0)):
        change = torch.zeros(LAYERS[name][0], dtype=torch.float64)
        change[head] = step
        up, down = reweighed(model, name, 1 + change), reweighed(model, name, 1 - change)
        slopes = [(loss(up, one) - loss(down, one)).item() / (2 * step) for one in examples(batches)]
        assert scores[name][head].item() == pytest.approx(sum(map(abs, slopes)) / len(slopes), rel=1e-5)


def test_taylor_normalized_has_unit_layers(model, batches, loss):
    raw = mha.score(model, batches, loss, "taylor").scores
    normalized = mha.score(model, batches, loss, "taylor", normalize=True).scores
    for name in LAYERS:
        torch.testing.assert_close(normalized[name], raw[name] / raw[name].norm())


def test_taylor_does_not_depend_on_how_examples_are_batched(model, batches, loss):
    whole = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    one, several = (mha.score(model, data, loss, "taylor").scores for data in (whole, batches))
    for name in LAYERS:
        torch.testing.assert_close(one[name], several[name], rtol=1e-10, atol=1e-14)


def test_magnitude_is_the_norm_of_the_columns(model):
    scores = mha.score(model, None, None, "magnitude").scores
    for name, (heads, width) in LAYERS.items():
        weight = model.get_submodule(name).W_o.weight
        expected = torch.stack([weight[:, h * width : (h + 1) * width].norm() for h in range(heads)])
        torch.testing.assert_close(scores[name], expected.detach())


def test_random_depends_on_the_seed_alone(model):
    first, same, other = (mha.score(model, None, None, "random", seed=seed) for seed in (5, 5, 6))
    assert first == same
    assert first != other


def test_gate_starts_at_the_identity(model, batches, loss):
    scores = mha.score(model, batches, loss, "gate", epochs=0).scores
    assert all(torch.equal(row, torch.ones(len(row), dtype=row.dtype)) for row in scores.values())


def test_gate_closes_a_head_that_hurts_and_keeps_the_layers_sum():
    """Two heads, of which one only adds a harmful constant direction to the prediction."""
    attention = mha.MultiHeadAttention.square(1, 2, head_dim=1)
    for linear in (attention.W_q, attention.W_k):
        nn.init.zeros_(linear.weight)
    attention.W_v.weight.data[:] = 1.0
    attention.W_o.weight.data[:] = torch.tensor([[0.5, -0.5]])
    x = torch.linspace(0.1, 1, 11).reshape(11, 1, 1)
    scores = mha.score(
        attention, [x], lambda model, batch: (model(batch, batch, batch) - batch).square().mean(), "gate", epochs=200
    )
    harmless, harmful = scores.scores[""].tolist()
    assert harmless > 1.9
    assert harmful < 0.1
    assert harmless + harmful == pytest.approx(2.0, abs=1e-5)


def test_default_is_leave_one_out(model, batches, loss):
    assert mha.score(model, batches, loss) == mha.score(model, batches, loss, "leave_one_out")


class OddAttention(nn.Linear):
    """Attention by name, of no known family."""

    def __init__(self) -> None:
        super().__init__(2, 3)


def test_unknown_names_say_what_there_is(model, batches, loss):
    with pytest.raises(mha.MhaError, match=r"unknown criterion 'taylr'; there are .*fisher, .*gate, .*leave_one_out, "):
        mha.score(model, batches, loss, "taylr")
    with pytest.raises(mha.MhaError, match=r"criterion 'taylor' has no option power; it takes unit, normalize"):
        mha.score(model, batches, loss, "taylor", power=2)
    with pytest.raises(mha.UnsupportedModule, match=r"(?s)no attention of a known family.*'0': OddAttention is of no"):
        mha.score(nn.Sequential(OddAttention()), batches, loss)
