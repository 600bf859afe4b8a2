"""Models of transformers whose attention needs more than slicing: sliced against masked, and masked against itself.

A model that is masked, or sliced, in no head computes just what the original does, although its attention's code may
be a replacement by then.
"""

import pytest
import torch

import mha
from mha import HeadPlan

transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers is not installed")

from tests.mha.support.plans import uneven  # noqa: E402
from tests.thorough import few  # noqa: E402
from tools.model_zoo.precision import DoublePrecision  # noqa: E402
from tools.model_zoo.weights import draw_weights  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # what transformers warns about is not ours

TEXT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 40, "vocab_size": 97}
GROUPED = {**TEXT, "num_key_value_heads": 2, "pad_token_id": 0}
FALCON = {**TEXT, "num_kv_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
GPT = {"n_embd": 48, "n_layer": 2, "n_head": 6, "vocab_size": 97}
OLD_FALCON = {**FALCON, "num_kv_heads": 6, "multi_query": False}
ENCODER = {**TEXT, "max_position_embeddings": 64}
GEMMA = {
    **GROUPED,
    "head_dim": 8,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "vocab_size_per_layer_input": 97,
    "hidden_size_per_layer_input": 4,
}
GEMMA4 = {**GEMMA, "global_head_dim": 16, "attention_k_eq_v": True}
IMAGE = {"image_size": 32, "patch_size": 4, "num_channels": 3}
PYRAMID = {
    "image_size": 32,
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "hidden_sizes": [24, 48],
    "num_attention_heads": [3, 6],
    "sequence_reduction_ratios": [2, 1],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "mlp_ratios": [1, 1],
}
AUDIO = {**TEXT, "conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2}

# case: model type, sizes, what is fed
CASES = {
    "ALiBi for all examples and heads": (
        "bloom",
        {"hidden_size": 48, "n_layer": 2, "n_head": 6, "vocab_size": 97},
        "text",
    ),
    "ALiBi for all heads": ("mpt", {"d_model": 48, "n_layers": 2, "n_heads": 6, "vocab_size": 97}, "text"),
    "groups of queries, key and value": ("falcon", {**FALCON, "new_decoder_architecture": True}, "text"),
    "one key and value for all": ("falcon", {**FALCON, "multi_query": True}, "text"),
    "ALiBi merged into the mask": (
        "falcon",
        {**FALCON, "num_kv_heads": 6, "multi_query": False, "alibi": True},
        "text",
    ),
    "a head's query, key and value": ("falcon", {**FALCON, "num_kv_heads": 6, "multi_query": False}, "text"),
    "ALiBi, grouped": ("falcon", {**FALCON, "new_decoder_architecture": True, "alibi": True}, "text"),
    "fused, one key and value for all": (
        "gpt_bigcode",
        {"n_embd": 48, "n_layer": 2, "n_head": 6, "vocab_size": 97},
        "text",
    ),
    "fused, a key and value each": ("gpt_bigcode", {**GPT, "multi_query": False}, "text"),
    "norm over all heads": ("olmo2", GROUPED, "text"),
    "keys handed on": ("gemma3n_text", GEMMA, "text"),
    "keys handed on, values are keys": (
        "gemma4_text",
        {**GEMMA, "global_head_dim": 16, "attention_k_eq_v": True},
        "text",
    ),
    "a norm after the output": ("albert", {**ENCODER, "embedding_size": 16}, "text"),
    "a position bias per head": ("mpnet", ENCODER, "text"),
    "gated position bias": ("wavlm", {**AUDIO, "num_buckets": 16}, "audio"),
    "a table of biases": (
        "swin",
        {**IMAGE, "embed_dim": 24, "depths": [1, 1], "num_heads": [3, 6], "window_size": 4},
        "image",
    ),
    "scores scaled per head": (
        "swinv2",
        {**IMAGE, "embed_dim": 24, "depths": [1, 1], "num_heads": [3, 6], "window_size": 4},
        "image",
    ),
    "width of the context from the input": (
        "pvt_v2",
        {**PYRAMID, "sr_ratios": [2, 1], "num_encoder_blocks": 2, "linear_attention": False},
        "image",
    ),
    "fewer keys than queries": ("segformer", {**PYRAMID, "sr_ratios": [2, 1]}, "image"),
    "position keys per head": ("wav2vec2-conformer", {**AUDIO, "position_embeddings_type": "relative"}, "audio"),
    "disentangled": ("deberta-v2", {**ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, "text"),
    "several streams": ("luke", {**ENCODER, "entity_vocab_size": 11, "entity_emb_size": 8}, "text"),
}


def build(model_type: str, sizes: dict, auto: str = "AutoModel"):
    with DoublePrecision():
        config = transformers.AutoConfig.for_model(model_type, **sizes)
        config.bos_token_id = config.eos_token_id = None
        model = getattr(transformers, auto).from_config(config).double().eval()
        draw_weights(model, seed=3)
    return model


def inputs_for(kind: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    if kind == "image":
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)}
    if kind == "audio":
        return {"input_values": torch.randn(2, 411, generator=generator, dtype=torch.float64)}
    return {"input_ids": torch.randint(3, 97, (2, 11), generator=generator)}


def whole(layers: mha.AttentionMap) -> HeadPlan:
    return HeadPlan({name: layer.heads for name, layer in layers.items()})


def largest_difference(one, other) -> float:
    return max(
        (first - second).abs().max().item()
        for first, second in zip(one.to_tuple(), other.to_tuple(), strict=True)
        if isinstance(first, torch.Tensor)
    )


@pytest.mark.parametrize("case", CASES)
def test_sliced_is_masked_and_masked_in_nothing_is_the_original(case):
    model_type, sizes, kind = CASES[case]
    model, inputs = build(model_type, sizes), inputs_for(kind)
    layers = mha.find_attention(model)
    assert len(layers) >= 1
    with DoublePrecision(), torch.no_grad():
        original = model(**inputs)
        with mha.masked(model, whole(layers)):
            assert largest_difference(original, model(**inputs)) < 1e-9
        assert largest_difference(original, mha.prune(model, whole(layers))(**inputs)) < 1e-9
        plan = uneven(layers)
        assert mha.check(model, plan, (), inputs, atol=1e-9) < 1e-9
        for name in (next(iter(layers)), list(layers)[-1]):
            assert mha.check(model, uneven(layers, empty=name), (), inputs, atol=1e-9) < 1e-9
        nothing = HeadPlan(dict.fromkeys(layers, ()))
        assert mha.check(model, nothing, (), inputs, atol=1e-9) < 1e-9
        once = mha.prune(model, HeadPlan(dict(list(plan.keep.items())[:1])))
        assert mha.check(once, plan, (), inputs, atol=1e-9) < 1e-9


GENERATING = [
    "ALiBi for all examples and heads",
    "ALiBi for all heads",
    "groups of queries, key and value",
    "ALiBi merged into the mask",
    "norm over all heads",
    "keys handed on",
    "keys handed on, values are keys",
]


@pytest.mark.parametrize("case", GENERATING)
@pytest.mark.parametrize("empty", few(["first", "last", "none"], "first", "last"))
def test_logits_with_a_cache_are_those_without(case, empty):
    model_type, sizes, kind = CASES[case]
    model = build(model_type, sizes, "AutoModelForCausalLM")
    layers = mha.find_attention(model)
    without = {"first": next(iter(layers)), "last": list(layers)[-1], "none": None}[empty]
    pruned = mha.prune(model, uneven(layers, empty=without))
    ids = inputs_for(kind)["input_ids"]
    with DoublePrecision(), torch.no_grad():
        whole = pruned(input_ids=ids, use_cache=False).logits
        cache, steps, seen = None, [], 0
        for part in ids.split([5, 1, 1, 4], dim=1):
            seen += part.shape[1]
            mask = torch.ones(len(ids), seen, dtype=torch.long)
            output = pruned(input_ids=part, past_key_values=cache, use_cache=True, attention_mask=mask)
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", ["keys handed on", "keys handed on, values are keys"])
def test_layers_that_hand_keys_on_keep_their_projections(case):
    model = build(*CASES[case][:2])
    layers = mha.find_attention(model)
    kinds = ["q_proj … o_proj, keys for other layers"] * 2 + ["q_proj … o_proj, keys of another layer"] * 2
    assert [layer.family for layer in layers.values()] == kinds
    pruned = mha.prune(model, HeadPlan(dict.fromkeys(layers, (4,))))
    first, name = next(iter(layers)), list(layers)[-1]
    assert pruned.get_submodule(first).k_proj.weight.shape == model.get_submodule(first).k_proj.weight.shape
    assert pruned.get_submodule(name).q_proj.weight.shape[0] * 6 == model.get_submodule(name).q_proj.weight.shape[0]


def test_projections_before_a_norm_over_all_heads_stay_whole():
    model = build("olmo2", GROUPED)
    layers = mha.find_attention(model)
    name = next(iter(layers))
    pruned = mha.prune(model, HeadPlan({name: (1, 2)})).get_submodule(name)  # of group 0 with heads 0, 1, 2
    before = model.get_submodule(name)
    assert pruned.q_proj.weight.shape == before.q_proj.weight.shape
    assert pruned.k_norm.weight.shape == before.k_norm.weight.shape
    assert pruned.v_proj.weight.shape == (8, 48)
    assert pruned.o_proj.weight.shape == (48, 16)
    assert pruned.q_norm(torch.ones(1, 48, dtype=torch.float64)).shape == (1, 16)


def test_a_pruned_model_with_selected_features_is_saved_and_pruned_again(tmp_path):
    model, ids = build("olmo2", GROUPED), inputs_for("text")
    name = next(iter(mha.find_attention(model)))
    pruned = mha.prune(mha.prune(model, HeadPlan({name: (1, 2, 4, 5)})), HeadPlan({name: (2, 5)}))
    with DoublePrecision(), torch.no_grad():
        expected = mha.prune(model, HeadPlan({name: (2, 5)}))(**ids).last_hidden_state
        assert torch.equal(pruned(**ids).last_hidden_state, expected)
        mha.save_pruned(pruned, tmp_path)
        assert torch.equal(mha.from_pretrained(tmp_path)(**ids).last_hidden_state, expected)


def test_the_size_of_a_head_counts_its_group_where_both_lie_in_one_weight():
    model = build("falcon", CASES["groups of queries, key and value"][1])
    name = next(iter(mha.find_attention(model)))
    scores = mha.score(model, None, None, "magnitude_all").scores[name]
    attention = model.get_submodule(name)
    groups = attention.query_key_value.weight.detach().reshape(2, 5, 8, 48)  # three queries, key and value of each
    output = attention.dense.weight.detach().reshape(48, 2, 3, 8)
    for group in range(2):
        for head in range(3):
            parts = (groups[group, head], groups[group, 3], groups[group, 4], output[:, group, head])
            expected = torch.stack([part.norm() for part in parts]).prod()
            torch.testing.assert_close(scores[group * 3 + head], expected.to(scores.dtype))


def test_the_reason_names_what_may_differ_from_head_to_head(monkeypatch):
    """The same input is refused when the code does something else with it than is known."""
    from mha.families.reading import inputs

    monkeypatch.setitem(inputs.PER_HEAD, "position_bias", (-3, "no such code"))
    layers = mha.find_attention(build("mpt", CASES["ALiBi for all heads"][1]))
    assert not layers
    assert (
        "MptAttention is given position_bias, which may differ from head to head" in layers.unsupported["blocks.0.attn"]
    )
