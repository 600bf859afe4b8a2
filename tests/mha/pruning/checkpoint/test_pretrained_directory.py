"""Pruned models that transformers itself has saved: the directory says what was pruned, and nothing is misread."""

import json

import pytest
import torch

import mha
from mha import HeadPlan
from mha.values.errors import CheckpointError
from tests.mha.support.language_models import GPT, GROUPED, IDS, SIZES, alike, build, first, logits

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

T5 = {"d_model": 42, "num_layers": 2, "num_heads": 6, "d_kv": 7, "d_ff": 17, "vocab_size": 97}
MODELS = {"llama": GROUPED, "gpt2": GPT, "phi3": GROUPED, "olmo2": {**GROUPED, "num_key_value_heads": 6}}


def assert_same(loaded, pruned) -> None:
    assert type(loaded) is type(pruned)
    assert mha.plan_of(loaded) == mha.plan_of(pruned)
    torch.testing.assert_close(logits(loaded), logits(pruned), rtol=0, atol=1e-6)  # rotary angles are made anew
    assert loaded.config.mha_pruned == pruned.config.mha_pruned
    assert not loaded.training


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("how", ["alike", "unlike", "none of one"])
def test_a_round_trip(model_type, how, tmp_path):
    model = build(model_type, **MODELS[model_type])
    plans = {"alike": alike(model), "unlike": first(model, (3, 4, 5)), "none of one": first(model, ())}
    pruned = mha.prune(model, plans[how])
    pruned.save_pretrained(tmp_path, max_shard_size="20KB" if how == "unlike" else "1GB")
    assert (tmp_path / "model.safetensors").exists() == (how != "unlike")
    assert_same(mha.from_pretrained(tmp_path), pruned)


def test_an_encoder_and_a_decoder(tmp_path):
    model = build("t5", "AutoModelForSeq2SeqLM", **T5)
    names = list(mha.find_attention(model))
    pruned = mha.prune(model, HeadPlan({names[0]: (1, 4), names[-1]: (), names[3]: (5,)}))
    pruned.save_pretrained(tmp_path)
    loaded = mha.from_pretrained(tmp_path)
    with torch.no_grad():
        outputs = [one(IDS, decoder_input_ids=IDS[:, :3]).logits for one in (loaded, pruned)]
    assert torch.equal(*outputs)
    assert mha.plan_of(loaded) == mha.plan_of(pruned)


def test_the_base_of_a_model_that_is_saved_alone(tmp_path):
    model = build("llama", **GROUPED)
    pruned = mha.prune(model, first(model, (0, 1, 2)))
    pruned.model.save_pretrained(tmp_path)
    loaded = mha.from_pretrained(tmp_path)
    with torch.no_grad():
        hidden = [one(IDS).last_hidden_state for one in (loaded, pruned.model)]
    torch.testing.assert_close(*hidden, rtol=0, atol=1e-6)
    assert mha.plan_of(loaded) == HeadPlan({"layers.0.self_attn": (0, 1, 2)})


def test_what_was_loaded_is_pruned_and_saved_on(tmp_path):
    model = build("llama", **GROUPED)
    mha.prune(model, alike(model)).save_pretrained(tmp_path / "once")
    again = mha.prune(mha.from_pretrained(tmp_path / "once"), first(model, (4,)))
    again.save_pretrained(tmp_path / "twice")
    assert_same(mha.from_pretrained(tmp_path / "twice"), again)
    mha.save_pruned(again, tmp_path / "ours")
    assert_same(mha.from_pretrained(tmp_path / "ours"), again)


def test_what_is_no_pruned_model_is_said(tmp_path):
    build("llama", **GROUPED).save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"that mha has not pruned: .* transformers' own from_pretrained reads it"
    ):
        mha.from_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"has no pruned.json: .*; mha.from_pretrained reads what transformers saved"
    ):
        mha.load_pruned(tmp_path)


@pytest.fixture
def directory(tmp_path):
    model = build("bert", "AutoModel", **SIZES, num_attention_heads=6)
    mha.prune(model, first(model, (1, 2))).save_pretrained(tmp_path)
    return tmp_path


def rewrite(directory, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


RECORD = {"version": 1, "plan": {}, "attention": {}, "dense": {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["system"]}, r"architectures are \['system'\]"),
        ({"architectures": ["TimmWrapperModel"]}, "TimmWrapperModel is no PreTrainedModel .* built from a file"),
        ({"architectures": ["AutoModel"]}, "no PreTrainedModel of transformers|expected the name of one class"),
        ({"architectures": "BertModel"}, "architectures are 'BertModel'"),
        ({"backbone": "evil/repository"}, "no model of another library, or of a repository, is built"),
        ({"hidden_size": 10**9}, "is 1000000000, and the weights"),
        ({"mha_pruned": {**RECORD, "version": 2}}, "another version"),
        ({"mha_pruned": {**RECORD, "plan": {"": "x"}}}, "not one that mha writes"),
        ({"mha_pruned": {**RECORD, "dense": {"": {"to_dict": "x"}}}}, "not one that mha writes"),
        ({"mha_pruned": RECORD}, "weights do not fit the BertModel: mismatched|can't be built here: "),
    ],
)
def test_hostile_configurations_are_refused(directory, changes, message):
    rewrite(directory, **changes)
    with pytest.raises(CheckpointError, match=message):
        mha.from_pretrained(directory)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "model.bin", None])
def test_shards_elsewhere_are_not_read(directory, name):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        mha.from_pretrained(directory)


def test_code_beside_it_is_not_run(directory, monkeypatch):
    (directory / "modeling.py").write_text("raise SystemExit")
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/repository"}')
    rewrite(directory, auto_map={"AutoModel": "modeling.Evil"})
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    assert type(mha.from_pretrained(directory)).__name__ == "BertModel"
