"""transformers' models, tiny and with random weights: one or more for each convention, sliced against masked."""

import pytest
import torch

import mha
from mha import HeadPlan

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TEXT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 40, "vocab_size": 97}
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
GPT = {"n_embd": 48, "n_layer": 2, "n_head": 6, "vocab_size": 97, "n_positions": 64}
SEQ2SEQ = {
    "d_model": 48,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 2), ("ffn_dim", 40))},
    **{f"{side}_attention_heads": 6 for side in ("encoder", "decoder")},
}
EXPERTS = {"experts_implementation": "eager", "num_experts_per_tok": 1}

SEQ2SEQ_TYPES = ("bart", "t5")
PRUNABLE = {
    "llama": GROUPED,
    "qwen3": GROUPED,  # heads normalised
    "qwen3_next": {  # half of each query head is a gate
        **GROUPED,
        **EXPERTS,
        "layer_types": ["full_attention"] * 2,
        "num_experts": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "gpt_oss": {**GROUPED, **EXPERTS, "num_local_experts": 2, "layer_types": ["full_attention"] * 2},  # sinks
    "bert": TEXT,  # the output projection beside the module that attends
    "vit": {**TEXT, "image_size": 16, "patch_size": 8},
    "distilbert": {"dim": 48, "n_layers": 2, "n_heads": 6, "hidden_dim": 40, "vocab_size": 97},
    "bart": SEQ2SEQ,  # cross-attention
    "gpt2": GPT,  # weights the other way round
    "gpt_neox": TEXT,  # a head's query, key and value side by side
    "persimmon": TEXT,
    "phi3": {**TEXT, "num_key_value_heads": 2, "pad_token_id": 0},  # config read in forward
    "modernbert": {**TEXT, "pad_token_id": 0},
    "t5": {"d_model": 48, "num_layers": 2, "num_heads": 6, "d_kv": 8, "d_ff": 40, "vocab_size": 97},  # a bias for all
    "deepseek_v3": {  # latent attention
        **TEXT,
        "num_key_value_heads": 6,
        "q_lora_rank": 14,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 6,
        "v_head_dim": 5,
        "first_k_dense_replace": 2,
    },
}


def build(model_type: str, sizes: dict, auto: str = "AutoModel"):
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    config.bos_token_id = config.eos_token_id = None
    torch.manual_seed(1)
    model = getattr(transformers, auto).from_config(config).double().eval()
    for name, parameter in model.named_parameters():
        mean = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, mean, 0.2)
    return model


def inputs_for(model_type: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    if model_type == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator, dtype=torch.float64)}
    ids = torch.randint(3, 97, (2, 11), generator=generator)
    return {"input_ids": ids, "decoder_input_ids": ids[:, :7]} if model_type in SEQ2SEQ_TYPES else {"input_ids": ids}


def uneven(layers: mha.AttentionMap, *, empty: str | None = None) -> HeadPlan:
    """As many heads of each of as many groups as the layer's place says, from the back."""
    keep = {}
    for place, (name, layer) in enumerate(layers.items()):
        per_group = layer.num_heads // layer.num_kv_heads
        groups = range(layer.num_kv_heads)[-1 - place % layer.num_kv_heads :]
        heads = range(per_group)[-1 - (place + 1) % per_group :]
        keep[name] = () if name == empty else [group * per_group + head for group in groups for head in heads]
    return HeadPlan(keep)


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
    from mha.pruning import slicing as pruning

    model, inputs = build(model_type, PRUNABLE[model_type]), inputs_for(model_type)
    layers = mha.find_attention(model)
    name = next(iter(layers))
    honest = pruning.kept_positions

    def neighbour(axis, sizes, heads, groups):
        return honest(axis, sizes, [0 if head == 1 else head for head in heads], [0 if g == 1 else g for g in groups])

    monkeypatch.setattr(pruning, "kept_positions", neighbour)
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
