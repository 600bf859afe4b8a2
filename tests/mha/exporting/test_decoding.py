"""Decoders with a cache are proved in their runtime, step by step, against a dense model without any cache."""

import copy

import pytest
import torch
from torch import nn

import mha
from mha.exporting.decoding import Decoder
from mha.exporting.ways import STEPS
from mha.values.errors import EquivalenceError, ExportError
from tests.mha.exporting.runtimes import RUNTIMES, needs_packages
from tests.mha.support.language_models import GPT, GROUPED, IDS, build, uneven
from tests.thorough import few

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'mha[hf]'")

TOKENS = 30
WIDTH = 14  # of a head
ENCODED = torch.tensor([[5, 3, 7, 11, 13, 2, 9, 4, 8], [9, 3, 3, 4, 17, 6, 0, 0, 0]])
PADDED = {"input_ids": ENCODED, "attention_mask": (ENCODED > 0).long(), "decoder_input_ids": ENCODED[:, :4]}
T5 = {"d_model": 84, "d_kv": WIDTH, "d_ff": 17, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 6,
      "vocab_size": 97, "pad_token_id": 0, "decoder_start_token_id": 0}  # fmt: skip
BART = {"d_model": 84, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 6, "vocab_size": 97,
        "decoder_attention_heads": 6, "encoder_ffn_dim": 17, "decoder_ffn_dim": 17, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}  # fmt: skip
KEPT = ((1, 2, 3, 5), (), (0, 2), (3,), ())  # of the encoder's layer, and of each of the decoder's, first of tokens
LLAMA = {"input_ids": IDS, "use_cache": False}


def ours(model, ids, **inputs):
    """The likeliest tokens after these, by a whole pass of a model for each of them."""
    ids = ids[:1]
    name = "decoder_input_ids" if inputs else "input_ids"
    with torch.no_grad():
        for _ in range(TOKENS):
            logits = model(**inputs, **{name: ids}, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, -TOKENS:].tolist()


def other(model, change):
    """The model with two heads of its first output projection swapped, or one of them off by a percent."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        heads = changed.model.layers[0].self_attn.o_proj.weight.unflatten(1, (-1, WIDTH))
        if change == "swapped":
            heads[:, [1, 2]] = heads[:, [2, 1]].clone()
        else:
            heads[:, 3] *= 1.01
    return changed


@pytest.fixture(scope="module")
def llama():
    return build("llama", **GROUPED).float()


@pytest.fixture(scope="module")
def traced(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached") / "torch"
    return mha.export(mha.prune(llama, uneven(llama)), "torch", folder, example=LLAMA, cache=True)


def proved(files, model, plan, example):
    """What the proof found, with the runtime's greedy tokens held against the pruned model's."""
    found = mha.check_export(files, model, plan, [example])
    assert len(found.tries) == 4
    assert found.worst.share < 1e-5
    return found


@pytest.mark.parametrize("name", ["torch", *RUNTIMES])
def test_uneven_llamas_with_a_layer_without_heads_decode_what_the_dense_model_does_without_a_cache(
    llama, traced, tmp_path, name
):
    needs_packages(name)
    plan = uneven(llama)
    pruned = mha.prune(llama, plan)
    files = traced if name == "torch" else mha.export(pruned, name, tmp_path / "out", example=LLAMA, cache=True)
    found = proved(files, llama, plan, LLAMA)
    assert [each.inputs for each in found.tries] == [
        f"input_ids {size}, attention_mask {size}, then {sum(STEPS)} tokens in {len(STEPS)} steps"
        for size in ("1×8", "1×3", "2×17", "5×8")
    ]
    assert files.load().greedy(IDS[0].tolist(), TOKENS) == ours(pruned, IDS)
    for change in ("swapped", "scaled"):
        with pytest.raises(EquivalenceError, match="does NOT compute what"):
            mha.check_export(files, other(llama, change), plan, [LLAMA])


def test_an_export_says_that_it_has_a_cache_and_what_is_open_of_it(traced):
    assert mha.Exported.read(traced.directory).cache
    assert str(traced).startswith("torch, with a cache: ")
    assert str(traced).endswith("for input_ids (any, any), attention_mask (any, any), position_ids (any, any)")
    assert traced.sizes["past_key_values.layers.0.keys"] == [None, 2, None, WIDTH]
    assert traced.sizes["past_key_values.layers.1.values"] == [None, 1, None, 1]  # no head is left
    assert traced.constants == {"use_cache": "True"}


class Forgetful(Decoder):
    """Takes every token for the first."""

    def step(self, ids):
        return self.start({"input_ids": ids})


class Misplaced(Decoder):
    """Takes what is padding for tokens."""

    def start(self, inputs):
        return super().start({"input_ids": inputs["input_ids"]})


@pytest.mark.parametrize("fault", [Forgetful, Misplaced])
def test_a_cache_that_is_lost_and_padding_that_is_read_are_found_out(llama, traced, monkeypatch, fault):
    loaded = traced.load()
    monkeypatch.setattr(mha.Exported, "load", lambda _: fault(loaded._program, loaded._takes))
    with pytest.raises(EquivalenceError, match="does NOT compute what"):
        mha.check_export(traced, llama, uneven(llama), [LLAMA])


def test_prompts_are_read_and_gone_on_from_in_batches(llama, traced):
    pruned, decoder = mha.prune(llama, uneven(llama)), traced.load()
    with pytest.raises(ExportError, match="no prompt to go on from: call start"):
        decoder.step(IDS[:, :1])
    with torch.no_grad():
        expected = pruned(IDS, use_cache=False).logits
    for prompt in (1, 4):
        logits = [decoder({"input_ids": IDS[:, :prompt]})["logits"]]
        logits += [decoder.step(ids) for ids in IDS[:, prompt:].split(2, dim=1)]
        assert torch.allclose(torch.cat(logits, dim=1), expected, atol=1e-5)


@pytest.mark.parametrize("kind", few(["gpt2", "mistral"], "gpt2"))
def test_absolute_positions_and_sliding_windows(tmp_path, kind):
    sizes = GPT if kind == "gpt2" else {**GROUPED, "sliding_window": 4}
    model = build(kind, **sizes).float()
    plan = uneven(model)
    files = mha.export(mha.prune(model, plan), "torch", tmp_path / "out", example=LLAMA, cache=True)
    longest = torch.randint(1, 97, (2, GPT["n_positions"]))  # the proof cuts it, to have room to go on
    proved(files, model, plan, {"input_ids": longest})


@pytest.mark.parametrize("name", ["torch", *RUNTIMES])
@pytest.mark.parametrize("kind", few(["t5", "bart"], "t5"))
def test_encoder_decoders_have_a_program_for_the_prompt_and_one_for_what_follows(tmp_path, kind, name):
    needs_packages(name)
    if kind == "bart" and name != "torch":
        pytest.skip("one model tells how a runtime takes two programs")
    model = build(kind, "AutoModelForSeq2SeqLM", **(T5 if kind == "t5" else BART)).float()
    plan = mha.HeadPlan(dict(zip(mha.find_attention(model), KEPT, strict=True)))
    pruned = mha.prune(model, plan)
    files = mha.export(pruned, name, tmp_path / "out", example=PADDED, cache=True)
    proved(files, model, plan, PADDED)
    encoded = {"input_ids": ENCODED[:1], "attention_mask": PADDED["attention_mask"][:1]}
    prompt = ENCODED[:, :2]
    assert files.load().greedy(prompt[0].tolist(), TOKENS, **encoded) == ours(pruned, prompt, **encoded)


def test_what_has_no_cache_is_refused(llama, tmp_path):
    out, x = tmp_path / "out", torch.randn(2, 3, 8)
    with pytest.raises(ExportError, match=r"Linear.forward takes no past_key_values: leave out cache"):
        mha.export(nn.Linear(8, 8), "torch", out, example=x, cache=True)
    with pytest.raises(ExportError, match=r"goes on by token ids, and the example has inputs_embeds; give input_ids"):
        mha.export(llama, "torch", out, example={"inputs_embeds": torch.randn(2, 3, 84)}, cache=True)
    with pytest.raises(ExportError, match=r"transformers is written without a cache: .*leave out cache"):
        mha.export(llama, "transformers", out, example=LLAMA, cache=True)
    assert list(tmp_path.iterdir()) == []
