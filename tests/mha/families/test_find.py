"""Finding attention, and describing a family of one's own."""

import pytest
import torch
from torch import nn

import mha
from mha.families.base import find as registry


def test_map_lists_layers_in_module_order(model):
    layers = mha.find_attention(model)
    assert list(layers) == ["plain", "grouped", "cross"]
    sizes = [(layer.num_heads, layer.num_kv_heads, layer.head_dim) for layer in layers.values()]
    assert sizes == [(7, 7, 3), (10, 5, 11), (3, 3, 13)]
    assert layers["grouped"].heads == tuple(range(10))
    assert layers["plain"].family == "mha.MultiHeadAttention"
    assert layers["plain"].role is None
    assert layers.unsupported == {}
    assert "'grouped': 10 heads" in repr(layers)


def test_root_is_named_by_the_empty_string():
    attention = mha.MultiHeadAttention(5, 5, 5, 6, 3)
    assert list(mha.find_attention(attention)) == [""]
    assert mha.prune(attention, mha.HeadPlan({"": (1,)})).num_heads == 1


def test_a_module_under_two_names_is_one_layer():
    shared = mha.MultiHeadAttention(5, 5, 5, 6, 3)
    assert list(mha.find_attention(nn.ModuleDict({"a": shared, "b": shared}))) == ["a"]


class HomeMadeAttention(nn.Module):
    """One matrix for queries, keys and values, laid out (three, head, width)."""

    def __init__(self, heads: int, width: int, model: int) -> None:
        super().__init__()
        self.n_head = heads
        self.width = width
        self.qkv = nn.Linear(model, 3 * heads * width)
        self.proj = nn.Linear(heads * width, model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.n_head, self.width).permute(2, 0, 3, 1, 4)
        context = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(context.transpose(1, 2).reshape(b, n, -1))


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))


def description(**changes):
    defaults = {
        "name": "home-made",
        "matches": lambda module: isinstance(module, HomeMadeAttention),
        "sizes": lambda module: {"h": module.n_head, "g": 1, "d": module.width},
        "rows": {"qkv": ("(h g d)", "(h d)", "(h d)")},
        "columns": {"proj": ("(h g d)",)},
        "output": "proj",
        "counts": {"n_head": "h g"},
    }
    return mha.Family(**(defaults | changes))


def test_unknown_attention_is_listed_and_refused_not_guessed_at(model):
    mixed = nn.ModuleDict({"known": model, "own": HomeMadeAttention(3, 5, 7)})
    layers = mha.find_attention(mixed)
    assert list(layers) == ["known.plain", "known.grouped", "known.cross"]
    assert list(layers.unsupported) == ["own"]
    with pytest.raises(
        mha.UnsupportedModule, match=r"'own': HomeMadeAttention is of no known family; describe it with"
    ):
        mha.prune(mixed, mha.HeadPlan({"own": (0,)}))


@pytest.mark.usefixtures("clean_registry")
def test_a_registered_family_is_found_masked_and_sliced():
    mha.register_family(description())
    torch.manual_seed(0)
    own = nn.Sequential(nn.Linear(11, 7), HomeMadeAttention(5, 3, 7)).double()
    plan = mha.HeadPlan({"1": (0, 3)})
    assert mha.check(own, plan, (torch.randn(2, 13, 11).double(),)) < 1e-12
    assert mha.prune(own, plan)[1].qkv.weight.shape == (3 * 2 * 3, 7)


@pytest.mark.usefixtures("clean_registry")
def test_a_module_of_two_families_is_ambiguous():
    mha.register_family(description())
    mha.register_family(description(name="also home-made"))
    found = mha.find_attention(nn.Sequential(HomeMadeAttention(5, 3, 7)))
    assert found.unsupported == {"0": "several families match: home-made, also home-made"}


@pytest.mark.usefixtures("clean_registry")
def test_contradictory_descriptions_are_refused():
    with pytest.raises(mha.MhaError, match=r"'home-made': the output projection 'out' must stand in columns"):
        mha.register_family(description(output="out"))
    mha.register_family(description())
    with pytest.raises(mha.MhaError, match=r"'home-made' is registered already"):
        mha.register_family(description())


@pytest.mark.usefixtures("clean_registry")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {"qkvv": ("(h g d)",)}}, "'home-made' names 'qkvv', which a HomeMadeAttention does not have"),
        (
            {"tensors": {"inner.scale": {0: ("(h g)",)}}},
            "'home-made' names 'inner', which a HomeMadeAttention does not",
        ),
        ({"per_head": {"bias": -3}}, r"HomeMadeAttention.forward is given \['x'\], and per_head names \['bias'\]"),
        ({"rows": {"qkv": ("(h g d)",)}}, "qkv.weight has 45 positions along dimension 0, but 5 heads of width 3"),
    ],
)
def test_descriptions_that_do_not_fit_the_module_are_refused(changes, message):
    mha.register_family(description(**changes))
    with pytest.raises(mha.MhaError, match=message):
        mha.prune(HomeMadeAttention(5, 3, 7), mha.HeadPlan({"": (0,)}))


@pytest.mark.usefixtures("clean_registry")
def test_what_a_module_has_none_of_is_passed_over():
    mha.register_family(description(rows={"qkv": ("(h g d)", "(h d)", "(h d)"), "gate": ("(h g d)",)}))
    own = HomeMadeAttention(5, 3, 7).double()
    own.gate = None
    assert mha.check(own, mha.HeadPlan({"": (0, 3)}), (torch.randn(2, 13, 7).double(),)) < 1e-12
