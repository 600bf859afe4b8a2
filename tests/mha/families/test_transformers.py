"""transformers' models, tiny and with random weights: one or more for each convention, sliced against masked."""

import pytest
import torch

import mha
from mha import HeadPlan
from tests.mha.support.plans import uneven
from tests.mha.support.transformers_models import GPT, GROUPED, PRUNABLE, SEQ2SEQ_TYPES, build, inputs_for

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("model_type", PRUNABLE)
def test_sliced_is_masked(model_type):
    model, inputs = build(model_type, PRUNABLE[model_type]), inputs_for(model_type)
    layers = mha.find_attention(model)
    assert len(layers) == (6 if model_type in SEQ2SEQ_TYPES else 2)
    assert layers.unsupported == {}
    plan = uneven(layers)
    assert mha.check(model, plan, (), inputs, atol=1e-9) < 1e-9
    assert mha.check(model, uneven(layers, empty=next(iter(layers))), (), inputs, atol=1e-9) < 1e-9
    without = uneven(layers, empty=next(iter(layers)))
    assert mha.plan_of(mha.prune(mha.prune(model, without), without)) == without
    once = mha.prune(model, HeadPlan(dict(list(plan.keep.items())[:1])))
    assert mha.check(once, plan, (), inputs, atol=1e-9) < 1e-9
    assert count(mha.prune(model, plan)) < count(model)


@pytest.mark.parametrize("model_type", PRUNABLE)
def test_the_comparison_can_fail(model_type, monkeypatch):
    """Every head matters: keep the wrong one, and it shows."""
    from mha.pruning import cut

    model, inputs = build(model_type, PRUNABLE[model_type]), inputs_for(model_type)
    layers = mha.find_attention(model)
    name = next(iter(layers))
    honest = cut.kept_indices

    def neighbour(axis, sizes, heads, groups):
        return honest(axis, sizes, [0 if head == 1 else head for head in heads], [0 if g == 1 else g for g in groups])

    monkeypatch.setattr(cut, "kept_indices", neighbour)
    per_group = layers[name].num_heads // layers[name].num_kv_heads
    wrong = HeadPlan({name: (1,) if per_group == 1 else (per_group,)})
    with pytest.raises(mha.EquivalenceError, match="sliced differs from masked"):
        mha.check(model, wrong, (), inputs, atol=1e-9)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox", "phi3", "deepseek_v3", "bart", "t5"])
def test_logits_with_a_cache_are_those_without(model_type):
    two = model_type in SEQ2SEQ_TYPES
    auto = "AutoModelForSeq2SeqLM" if two else "AutoModelForCausalLM"
    model = build(model_type, PRUNABLE[model_type], auto)
    layers = mha.find_attention(model)
    first = next(name for name in layers if not name.removeprefix("model.").startswith("encoder."))
    pruned = mha.prune(model, uneven(layers, empty=first))
    ids = inputs_for(model_type)["input_ids"]
    fixed = {"input_ids": ids} if two else {}
    argument = "decoder_input_ids" if two else "input_ids"
    with torch.no_grad():
        whole = pruned(**fixed, **{argument: ids}, use_cache=False).logits
        cache, steps = None, []
        for part in ids.split([5, 1, 1, 4], dim=1):
            output = pruned(**fixed, **{argument: part}, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("model_type", "sizes", "reason"),
    [
        (
            "bitnet",
            {**GROUPED, "pad_token_id": 0, "head_dim": 8},
            "couples its heads: a norm before the output projection",
        ),
        ("diffllama", GROUPED, "couples its heads: heads are paired"),
        ("doge", GROUPED, "couples its heads: its mask is made of all heads' values"),
        ("codegen", {**GPT, "n_head": 4, "rotary_dim": 4}, "does not say clearly how queries, keys and values lie"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_reason(model_type, sizes, reason):
    layers = mha.find_attention(build(model_type, sizes))
    assert len(layers) == 0
    name = next(name for name, why in layers.unsupported.items() if "is of no known family" not in why)
    with pytest.raises(mha.UnsupportedModule, match=reason):
        mha.prune(build(model_type, sizes), HeadPlan({name: (0,)}))


def test_the_original_config_is_untouched():
    model = build("phi3", PRUNABLE["phi3"])
    name = next(iter(mha.find_attention(model)))
    pruned = mha.prune(model, HeadPlan({name: (0, 1, 2)}))
    assert model.config.num_attention_heads == pruned.config.num_attention_heads == 6
    assert pruned.get_submodule(name).config.num_attention_heads == 3
    pruned.config.some_field = "live"
    assert pruned.get_submodule(name).config.some_field == "live"
