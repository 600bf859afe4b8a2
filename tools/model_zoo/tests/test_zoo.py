"""The tiny models: small, complete, repeatable, and with weights under which every head shows in the output."""

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", minversion="5.0", reason="the zoo is of transformers' models")

from tools.model_zoo.configs import SIZES, tiny_config
from tools.model_zoo.inputs import BATCH, LENGTH, PADDED
from tools.model_zoo.precision import DoublePrecision
from tools.model_zoo.prove import CHECKS, prove
from tools.model_zoo.reasons import reason_of
from tools.model_zoo.walk import within
from tools.model_zoo.weights import draw_weights
from tools.model_zoo.zoo import NotBuilt, build, build_generating, generate, model_types, run, tensors

pytestmark = pytest.mark.filterwarnings("ignore")  # what transformers warns about is not ours

# One or two of each modality and kind of attention.
TYPES = [
    *("bert", "llama", "gpt2", "t5", "deepseek_v3", "gemma3_text", "mamba", "longformer"),
    *("vit", "swin", "detr", "sam2_video", "qwen2_vl", "llava_next", "whisper", "wav2vec2", "autoformer"),
]


@pytest.fixture(scope="module", params=TYPES)
def specimen(request):
    return build(request.param)


def _numbers(output):
    return [tensor for tensor in tensors(output) if tensor.is_floating_point()]


def test_every_mapped_type_is_listed_once():
    types = model_types()
    assert len(types) == len(set(types)) > 500
    assert set(TYPES) <= set(types)


def test_output_is_finite_in_double_precision_and_repeatable(specimen):
    with torch.no_grad():
        first, second = _numbers(run(specimen)), _numbers(run(specimen))
    assert first
    assert all(tensor.dtype == torch.float64 and tensor.isfinite().all() for tensor in first)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_model_is_small_and_no_weight_is_constant(specimen):
    parameters = [p for p in specimen.model.parameters() if p.is_floating_point()]
    assert sum(p.numel() for p in parameters) < 2_000_000
    assert all(p.dtype == torch.float64 for p in parameters)
    assert all(p.std() > 0.01 for p in parameters if p.numel() > 9)
    assert not specimen.model.training


def test_seed_decides_the_weights_and_the_inputs():
    one, same, other = build("bert"), build("bert"), build("bert", seed=1)
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, same.model.state_dict()[name])
    assert torch.equal(one.inputs["input_ids"], same.inputs["input_ids"])
    assert not torch.equal(one.inputs["input_ids"], other.inputs["input_ids"])
    assert not torch.equal(
        one.model.encoder.layer[0].output.dense.weight, other.model.encoder.layer[0].output.dense.weight
    )


@pytest.mark.parametrize("head", range(6))
@pytest.mark.parametrize("layer", range(2))
def test_every_head_shows_in_the_output(layer, head):
    specimen = build("llama")
    with torch.no_grad():
        whole = run(specimen).last_hidden_state
        specimen.model.layers[layer].self_attn.o_proj.weight[:, 16 * head : 16 * (head + 1)] = 0
        assert (run(specimen).last_hidden_state - whole).abs().max() > 1e-2


def test_another_model_runs_in_its_place():
    specimen, other = build("gpt2"), build("gpt2", seed=1)
    assert torch.equal(run(specimen, other.model).last_hidden_state, other.model(**specimen.inputs).last_hidden_state)


def test_shrunk_sizes_differ_and_stay_grouped():
    config = tiny_config("qwen3")
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.hidden_size) == (
        6,
        2,
        16,
        48,
    )


def test_each_kind_of_layer_is_kept():
    kinds = tiny_config("gemma3_text").layer_types
    assert set(kinds) == {"sliding_attention", "full_attention"}
    assert len(kinds) == 2


def test_towers_are_shrunk_to_other_widths_than_the_text():
    config = tiny_config("llava")
    assert (config.text_config.hidden_size, config.vision_config.hidden_size) == (48, 32)
    assert config.image_token_index < config.text_config.vocab_size == SIZES["vocab_size"]


def test_a_text_has_room_for_its_image():
    specimen = build("qwen2_vl")  # 4 x 4 patches, merged by twos
    ids, token = specimen.inputs["input_ids"], specimen.config.image_token_id
    assert ids.shape == (BATCH, LENGTH + 4)
    assert (ids == token).sum(dim=1).tolist() == [4, 4]
    assert torch.equal(specimen.inputs["mm_token_type_ids"] == 1, ids == token)


def test_only_the_base_model_gets_padding():
    assert build("llama").inputs["attention_mask"].sum(dim=1).tolist() == [LENGTH, LENGTH - PADDED]
    assert build_generating("llama").inputs["attention_mask"].all()


@pytest.mark.parametrize("model_type", ["llama", "t5", "qwen2_vl"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_logits_are_the_same_with_a_cache(model_type, cache):
    specimen = build_generating(model_type)
    plain, cached = generate(specimen, cache=None), generate(specimen, cache=cache)
    assert plain.shape == (BATCH, 4, SIZES["vocab_size"])
    torch.testing.assert_close(cached, plain, rtol=0, atol=1e-9)


def test_single_precision_is_left_alone():
    specimen = build("bert", dtype=torch.float32)
    double = build("bert")
    output = run(specimen).last_hidden_state
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), run(double).last_hidden_state, rtol=0, atol=1e-4)


def test_what_can_not_be_built_says_why():
    with pytest.raises(NotBuilt, match="incomplete"):
        build("pp_ocrv6_medium_det")
    with pytest.raises(NotBuilt, match="does not generate"):
        build_generating("vit")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("TimmBackbone requires the timm library but it was not found"), "needs timm"),
        (TimeoutError(), "takes too long"),
        (ValueError("a\n  b"), "ValueError: a b"),
    ],
)
def test_reasons_are_a_few_words(error, reason):
    assert reason_of(error) == reason


def test_a_row_tells_how_far_a_type_came():
    row = within(60, prove, "vit")
    assert row["status"] == "proven"
    assert (row["layers"], row["conventions"]) == (2, "q_proj … o_proj")
    assert {row[check] for check in CHECKS} == {"ok", ""}
    failed = within(60, prove, "sam3_video")
    assert failed["status"] == "not built"
    assert "session" in failed["reason"]


def test_double_precision_widens_every_request_and_ends_with_its_block():
    with DoublePrecision():
        half = torch.ones(3, dtype=torch.float16)
        results = [half, half.float(), half.to(torch.float32), half.softmax(0, dtype=torch.float32), torch.rand(2)]
        assert torch.view_as_complex(torch.ones(3, 2).float()).dtype == torch.complex128
    assert [result.dtype for result in results] == [torch.float64] * len(results)
    assert torch.ones(3, dtype=torch.float32).dtype == torch.get_default_dtype() == torch.float32


def test_weights_are_spread_by_fan_in_and_gains_lie_around_one():
    model = nn.Sequential(nn.Linear(400, 300), nn.LayerNorm(300), nn.Embedding(500, 30), nn.Conv2d(7, 110, 3))
    draw_weights(model, seed=0)
    linear, norm, embedding, convolution = model
    assert linear.weight.std().item() == pytest.approx(400**-0.5, rel=0.05)
    assert linear.bias.std().item() == pytest.approx(0.3, rel=0.1)
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.05)
    assert norm.weight.std().item() == pytest.approx(0.2, rel=0.1)
    assert embedding.weight.std().item() == pytest.approx(0.7, rel=0.05)
    assert convolution.weight.std().item() == pytest.approx(63**-0.5, rel=0.05)
