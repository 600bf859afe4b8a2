"""Attention weights that transformers' models return: those of the heads that are there, masked and sliced alike."""

import pytest
import torch
from torch import nn

import mha
from mha import HeadPlan
from mha.families.reading.attention_weights import Weights, weights_of

pytest.importorskip("transformers", minversion="5.0", reason="the zoo is of transformers' models")

from tools.model_zoo.zoo import build

pytestmark = pytest.mark.filterwarnings("ignore")  # what transformers warns about is not ours


@pytest.mark.parametrize("model_type", ["llama", "bert", "t5", "rembert"])
def test_masked_and_sliced_return_the_same_weights(model_type):
    specimen = build(model_type, attention="eager")
    layers = mha.find_attention(specimen.model)
    per_group = {name: layer.num_heads // layer.num_kv_heads for name, layer in layers.items()}
    some = HeadPlan({name: range(per_group[name], 2 * per_group[name]) for name in layers})
    inputs = {**specimen.inputs, "output_attentions": True}
    for plan in (some, HeadPlan({**some.keep, next(iter(layers)): ()}), HeadPlan(dict.fromkeys(layers, ()))):
        assert mha.check(specimen.model, plan, (), inputs, atol=1e-5) < 1e-5  # norms are in float32 here


def test_weights_are_those_of_the_heads_still_here():
    specimen = build("llama", attention="eager")
    inputs = {**specimen.inputs, "output_attentions": True}
    with torch.no_grad():
        whole = specimen.model(**inputs).attentions
        pruned = mha.prune(specimen.model, HeadPlan({"layers.1.self_attn": (1, 5), "layers.0.self_attn": range(6)}))
        first, second = pruned(**inputs).attentions
    torch.testing.assert_close(first, whole[0])
    torch.testing.assert_close(second, whole[1][:, [1, 5]])


def test_a_layer_without_heads_returns_weights_only_where_one_with_heads_does():
    specimen = build("rembert")  # returns them when asked, fused or not
    name = next(iter(mha.find_attention(specimen.model)))
    pruned = mha.prune(specimen.model, HeadPlan({name: ()}))
    with torch.no_grad():
        assert pruned(**specimen.inputs).attentions is None
        assert pruned(**specimen.inputs, output_attentions=True).attentions[0].shape == (2, 0, 11, 11)


def test_hooks_are_gone_afterwards():
    specimen = build("llama", attention="eager")
    attention = specimen.model.layers[0].self_attn
    with mha.masked(specimen.model, HeadPlan({"layers.0.self_attn": (0,)})):
        assert len(attention._forward_hooks) == 1
    assert len(attention._forward_hooks) == 0


class Returns(nn.Module):
    def forward(self, x, output_attentions=False):
        attn_weights = x.softmax(-1)
        return (x, None, attn_weights) if output_attentions else (x,)


class ReturnsNone(nn.Module):
    def forward(self, x):
        return x, None


def test_the_place_of_weights_is_read_from_the_code():
    assert weights_of(Returns()) == Weights(place=2, eager=False, asked=True)
    assert weights_of(ReturnsNone()) is None
