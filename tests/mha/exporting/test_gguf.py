"""GGUF: what is written, and that stock llama.cpp computes and writes what the masked model does."""

import numpy as np
import pytest
import torch

import mha
from mha.exporting.formats.gguf import Gguf, _permuted
from mha.values.errors import EquivalenceError, ExportError
from tests.mha.support.language_models import build

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'mha[hf]'")

SIZES = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "intermediate_size": 160,
    "vocab_size": 131,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
IDS = torch.tensor([[5, 3, 7, 11, 13, 2, 9, 4]])
PLAN = mha.HeadPlan(
    {"model.layers.0.self_attn": (0, 1, 4, 5), "model.layers.1.self_attn": (), "model.layers.2.self_attn": (2, 3)}
)
EXAMPLE = {"input_ids": IDS, "use_cache": False}


@pytest.fixture(scope="module")
def model():
    return build("llama", **SIZES).float()


@pytest.fixture
def without_runtime(monkeypatch):
    """Writing needs no llama.cpp."""
    monkeypatch.setattr(Gguf, "packages", {"gguf": "hf"})


@pytest.mark.usefixtures("without_runtime")
def test_the_file_says_how_many_heads_each_layer_has_and_holds_their_weights(model, tmp_path):
    pruned = mha.prune(model, PLAN)
    files = mha.export(pruned, "gguf", tmp_path / "out", example=EXAMPLE)
    reader = gguf.GGUFReader(files.directory / "model.gguf")
    told = {name.removeprefix("deci."): field.contents() for name, field in reader.fields.items()}
    assert told["general.architecture"] == "deci"
    assert told["attention.head_count"] == [4, 0, 2]
    assert told["attention.head_count_kv"] == [2, 0, 1]
    assert told["feed_forward_length"] == [160] * 3
    assert (told["attention.key_length"], told["rope.dimension_count"], told["block_count"]) == (16, 16, 3)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert not [name for name in tensors if name.startswith("blk.1.attn")]
    attention = pruned.model.layers[0].self_attn
    assert np.array_equal(tensors["blk.0.attn_v.weight"], attention.v_proj.weight.detach().numpy())
    pairs = attention.q_proj.weight.detach().unflatten(0, (4, 16))
    assert np.array_equal(tensors["blk.0.attn_q.weight"][1], pairs[0, 8].numpy())  # beside the row it is turned with
    assert _permuted(attention.q_proj.weight, 4)[16].equal(pairs[1, 0])


@pytest.mark.usefixtures("without_runtime")
def test_eight_bits_are_within_their_scale(model, tmp_path):
    files = mha.export(model, "gguf", tmp_path / "out", example=EXAMPLE, int8=True)
    reader = gguf.GGUFReader(files.directory / "model.gguf")
    (tensor,) = [each for each in reader.tensors if each.name == "blk.0.ffn_up.weight"]
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0
    expected = model.model.layers[0].mlp.up_proj.weight.detach().numpy()
    away = np.abs(gguf.quants.dequantize(tensor.data, tensor.tensor_type) - expected)
    assert away.max() <= np.abs(expected).max() / 127


@pytest.mark.usefixtures("without_runtime")
def test_what_llama_cpp_can_not_say_is_refused(model, tmp_path):
    bert = build("bert", "AutoModel", hidden_size=84, num_hidden_layers=2, intermediate_size=17, vocab_size=97,
                 pad_token_id=0, num_attention_heads=6)  # fmt: skip
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    for refused, message in (
        (bert, r"has the blocks of Llama, and this is bert \(BertModel\)"),
        (build("qwen3", **SIZES).float(), "and this is qwen3"),
        (build("llama", **SIZES, attention_bias=True).float(), r"q_proj\.bias: deci has no biases"),
        (build("llama", **SIZES, rope_parameters=scaled).float(), "rotary positions of type 'linear'"),
    ):
        with pytest.raises(ExportError, match=message):
            mha.export(refused, "gguf", tmp_path / "out", example=EXAMPLE)
    embeds = torch.randn(1, 3, 96)
    with pytest.raises(ExportError, match=r"given token ids, and the example has inputs_embeds"):
        mha.export(model, "gguf", tmp_path / "out", example={"inputs_embeds": embeds})
    with pytest.raises(ExportError, match=r"nothing\.gguf: its tokenizer can't be read"):
        mha.export(model, "gguf", tmp_path / "out", example=EXAMPLE, tokenizer=tmp_path / "nothing.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("int8", [False, True])
def test_llama_cpp_computes_what_the_masked_model_does(model, tmp_path, int8):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'mha[export]'; nox -s exports")
    pruned = mha.prune(model, PLAN)
    files = mha.export(pruned, "gguf", tmp_path / "out", example=EXAMPLE, int8=int8)
    found = mha.check_export(files, model, PLAN, [EXAMPLE])
    assert len(found.tries) == 4
    assert (found.worst.share > 1e-4) == int8
    if not int8:
        ours = pruned.generate(IDS, max_new_tokens=40, do_sample=False, eos_token_id=-1, pad_token_id=0)
        assert files.load().greedy(IDS[0].tolist(), 40) == ours[0, IDS.shape[1] :].tolist()


def test_a_sabotaged_file_is_found_out(model, tmp_path):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'mha[export]'; nox -s exports")
    broken = mha.prune(model, PLAN)
    with torch.no_grad():
        broken.model.layers[2].self_attn.o_proj.weight[:, :16] *= 1.01
    files = mha.export(broken, "gguf", tmp_path / "out", example=EXAMPLE)
    with pytest.raises(EquivalenceError, match="does NOT compute what"):
        mha.check_export(files, model, PLAN, [EXAMPLE])
