"""Masks, and angles, that a model makes for all heads: a layer that has fewer takes its own."""

import copy
import importlib

import pytest
import torch

import mha
from mha import HeadPlan

pytest.importorskip("transformers", minversion="5.0", reason="the zoo is of transformers' models")

from tools.model_zoo.zoo import build, run

pytestmark = pytest.mark.filterwarnings("ignore")  # what transformers warns about is not ours

FIRST = "layers.0.self_attn"
PLANS = {"some": (1, 3), "one": (4,), "none": ()}  # llama's six heads are in two groups


@pytest.fixture(scope="module")
def llama():
    return build("llama")


def bias(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("heads", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("shape", [(2, 6, 11, 11), (1, 6, 11, 11), (2, 1, 11, 11)], ids=["each", "shared", "one head"])
def test_a_mask_for_all_heads_gives_each_head_its_own(llama, heads, shape):
    inputs = {**llama.inputs, "attention_mask": bias(*shape)}
    assert mha.check(llama.model, HeadPlan({FIRST: heads}), (), inputs, atol=1e-9) < 1e-12


def test_a_mask_by_position_is_taken_as_one_by_name(llama):
    from tools.model_zoo.precision import DoublePrecision

    pruned = mha.prune(llama.model, HeadPlan({FIRST: (1, 3)}))
    attention, x, mask = pruned.get_submodule(FIRST), bias(2, 11, 48), bias(2, 6, 11, 11)
    with DoublePrecision(), torch.no_grad():
        angles = pruned.rotary_emb(x, torch.arange(11)[None])
        by_name, _ = attention(x, position_embeddings=angles, attention_mask=mask)
        by_position, _ = attention(x, angles, mask)
        gathered, _ = attention(x, angles, mask[:, [1, 3]])
    assert torch.equal(by_name, by_position)
    assert torch.equal(by_name, gathered)


def test_a_mask_of_another_number_of_heads_is_left_to_the_model(llama):
    pruned = mha.prune(llama.model, HeadPlan({FIRST: (1, 3)}))
    with pytest.raises(RuntimeError, match="must match the size"):
        pruned(**{**llama.inputs, "attention_mask": bias(2, 5, 11, 11)})


def test_a_mask_of_three_dimensions_counts_examples_not_heads():
    """With six examples and six heads, a mask (b, q, k) could be mistaken for one per head."""
    from mha.families.base.gathering import MASK_DIM, gathering

    class Takes(torch.nn.Module):
        def forward(self, mask):
            return mask

    attention = gathering(Takes, {"mask": MASK_DIM})()
    mha.values.plan.set_lineage(attention, mha.values.plan.Lineage((1, 3), 6, (1, 3), 6))
    assert attention(bias(6, 5, 7)).shape == (6, 5, 7)
    assert torch.equal(attention(bias(5, 6, 7, 7)), bias(5, 6, 7, 7)[:, [1, 3]])
    assert attention(None) is None


def test_a_pruned_layer_can_be_sent_to_another_process(llama):
    """The layer's class is generated; what makes it again has a name that can be imported."""
    attention = mha.prune(llama.model, HeadPlan({FIRST: (1, 3)})).get_submodule(FIRST)
    function, arguments, state = attention.__reduce_ex__(2)[:3]
    assert getattr(importlib.import_module(function.__module__), function.__qualname__) is function
    again = function(*arguments)
    again.__setstate__(state)
    assert type(again) is type(attention)
    assert torch.equal(again.q_proj.weight, attention.q_proj.weight)
    assert type(copy.deepcopy(attention)) is type(attention)


def test_angles_by_head_are_gathered():
    """NeuCodec turns a head by its number, not a token by its place."""
    specimen = build("neucodec")
    layers = mha.find_attention(specimen.model)
    plan = HeadPlan(dict.fromkeys(layers, (1, 3)))
    with torch.no_grad():
        sliced = run(specimen, mha.prune(specimen.model, plan))[0]
        with mha.masked(specimen.model, plan):
            masked = run(specimen)[0]
        wrong = run(specimen, mha.prune(specimen.model, HeadPlan(dict.fromkeys(layers, (0, 1)))))[0]
    torch.testing.assert_close(sliced, masked, rtol=0, atol=1e-9)
    assert (wrong - masked).abs().max() > 1e-3
