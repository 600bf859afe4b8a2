"""Inputs and features that come for all original heads: what of them the heads still here get, by hand."""

import pytest
import torch
from torch import Tensor, nn

import mha
from mha import HeadPlan
from mha.families.base import find as registry
from mha.families.base.gathering import of_heads, select, selected
from mha.values.plan import Lineage, set_lineage


@pytest.fixture
def pruned():
    module = nn.Identity()
    set_lineage(module, Lineage((1, 4), 5, (1, 4), 5))
    return module


def test_heads_are_taken_along_their_dimension(pruned):
    bias = torch.arange(2 * 5 * 3 * 7).reshape(2, 5, 3, 7)
    assert torch.equal(of_heads(pruned, "bias", bias, -3), bias[:, [1, 4]])
    assert torch.equal(of_heads(pruned, "bias", bias[0], -3), bias[0, [1, 4]])


def test_heads_of_each_example_are_taken_where_both_share_a_dimension(pruned):
    bias = torch.arange(2 * 5 * 3 * 7).reshape(10, 3, 7)
    assert torch.equal(of_heads(pruned, "bias", bias, -3), bias[[1, 4, 6, 9]])


def test_what_is_the_same_for_all_heads_stays(pruned):
    mask = torch.ones(2, 1, 3, 7)
    assert of_heads(pruned, "mask", mask, -3) is mask
    padding = torch.ones(2, 7)
    assert of_heads(pruned, "mask", padding, -3) is padding
    bias = torch.ones(2, 5, 3, 7)
    assert of_heads(nn.Identity(), "bias", bias, -3) is bias


def test_an_input_for_another_number_of_heads_is_refused(pruned):
    with pytest.raises(mha.MhaError, match=r"bias: expected 1, or a multiple of the 5 original heads, .* got \(2, 3"):
        of_heads(pruned, "bias", torch.ones(2, 3, 3, 7), -3)


def test_selecting_twice_composes():
    norm = nn.LayerNorm(5)
    assert selected(norm) is None
    x = torch.randn(2, 5)
    whole = norm(x)
    select(norm, torch.tensor([0, 2, 4]))
    select(norm, torch.tensor([1, 2]))
    assert selected(norm) == 2
    assert torch.equal(norm(x), whole[:, [2, 4]])
    assert "selected_features" not in norm.state_dict()


class BiasedAttention(nn.Module):
    """Self-attention over normalised queries, with a bias per head from outside."""

    def __init__(self, heads: int, width: int, model: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.q = nn.Linear(model, heads * width)
        self.norm = nn.LayerNorm(heads * width)
        self.k, self.v = nn.Linear(model, heads * width), nn.Linear(model, heads * width)
        self.out = nn.Linear(heads * width, model)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = (*x.shape[:2], self.heads, self.width)
        q, k, v = (part.view(shape).transpose(1, 2) for part in (self.norm(self.q(x)), self.k(x), self.v(x)))
        scores = q @ k.transpose(-1, -2)
        scores = scores if bias is None else scores + bias
        context = scores.softmax(-1) @ v
        return self.out(context.transpose(1, 2).flatten(2))


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    family = mha.families.Family(
        name="biased",
        matches=lambda module: isinstance(module, BiasedAttention),
        sizes=lambda module: {"h": module.heads, "g": 1, "d": module.width},
        rows={"k": ("(h d)",), "v": ("(h d)",)},
        columns={"out": ("(h g d)",)},
        output="out",
        counts={"heads": "h g"},
        per_head={"bias": -3},
        selected={"norm": ("(h g d)",)},
    )
    mha.register_family(family)


@pytest.mark.usefixtures("registered")
def test_a_family_of_ones_own_may_name_both():
    attention = BiasedAttention(5, 3, 7).double()
    nn.init.normal_(attention.norm.weight)
    x = torch.randn(2, 11, 7, dtype=torch.float64)
    for bias in (None, torch.randn(5, 11, 11, dtype=torch.float64), torch.randn(2, 5, 11, 11, dtype=torch.float64)):
        for keep in ((1, 4), (0,), (0, 1, 2, 3, 4)):
            assert mha.check(attention, HeadPlan({"": keep}), (x,), {"bias": bias}) < 1e-10
    once = mha.prune(attention, HeadPlan({"": (1, 2, 4)}))
    assert mha.check(once, HeadPlan({"": (2, 4)}), (x, bias)) < 1e-10
    assert attention.norm(x.new_ones(1, 15)).shape == (1, 15)


@pytest.mark.usefixtures("registered")
def test_features_that_were_selected_by_hand_are_noticed():
    attention = BiasedAttention(5, 3, 7)
    select(attention.norm, torch.arange(4))
    with pytest.raises(mha.MhaError, match=r"norm returns 4 features, but 5 heads need 15; .* changed by hand"):
        mha.prune(attention, HeadPlan({"": (1,)}))
