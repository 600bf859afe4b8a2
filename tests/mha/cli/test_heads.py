"""What `mha heads` lists, of every kind of model."""

import json

import pytest
import torch

from tests.mha.cli.tiny import tiny_bert, transformers

LAYERS = [f"bert.encoder.layer.{number}.attention" for number in range(2)]


def test_layers_as_a_table(run):
    ran = run("heads", "my-model")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["layer", "heads", "groups", "width", "role", "parameters", "family"]
    assert [line.split()[:4] for line in lines[1:3]] == [[name, "6", "6", "5"] for name in LAYERS]
    size = sum(parameter.numel() for parameter in tiny_bert().parameters())
    assert lines[3].startswith(f"BertForSequenceClassification: 12 heads in 2 layers, {size:,} parameters, ")


def test_a_pruned_model_says_what_was_removed(run):
    ran = run("heads", "smaller", "--json")
    document = ran.document
    assert [(row["layer"], row["heads"], row["heads_made_with"]) for row in document["layers"]] == [
        (name, 3, 6) for name in LAYERS
    ]
    assert (document["heads"], document["heads_made_with"]) == (6, 12)
    assert document["history"][0]["how"] == "keep 0.5, criterion magnitude"
    told = run("heads", "smaller").out.splitlines()[-1]
    assert told.startswith("Removed before: 6 of 12 heads: 6 on 20")
    assert told.endswith("(keep 0.5, criterion magnitude).")


@pytest.mark.usefixtures("costs")
def test_shares_of_parameters_and_latency(run):
    document = run("heads", "my-model", "--time", "--task", "task.py:task", "--json").document
    model = tiny_bert()
    size = sum(parameter.numel() for parameter in model.parameters())
    attention = sum(p.numel() for p in model.bert.encoder.layer[0].attention.parameters())
    for row in document["layers"]:
        assert row["share_of_parameters"] == pytest.approx(attention / size)
        assert row["share_of_latency"] == pytest.approx(6 / 14)  # 6 heads, of 12 and a rest of 2
    assert "A call takes 1.4e+04 ms, 86 % of it in attention." in run("heads", "my-model", "--time").out


def test_a_function_in_a_file(run):
    document = run("heads", "own.py:build", "--json").document
    assert document["class"] == "Own"
    assert [(row["layer"], row["heads"], row["head_width"]) for row in document["layers"]] == [("attention", 4, 2)]


def test_what_cant_be_pruned_is_told(run, here):
    (here / "odd.py").write_text(
        "import torch\n"
        "class OddAttention(torch.nn.Linear):\n    pass\n"
        "def build():\n    return torch.nn.Sequential(OddAttention(3, 3), torch.nn.MultiheadAttention(4, 2))\n"
    )
    ran = run("heads", "odd.py:build")
    assert "can't be pruned: 0: OddAttention is of no known family" in ran.out
    assert run("heads", "odd.py:build", "--json").document["unsupported"].keys() == {"0"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_gguf_file_and_its_folder(run, here):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    write_gguf(gguf, here / "tiny.gguf")
    for text in ("tiny.gguf", "folder"):
        (here / "folder").mkdir(exist_ok=True)
        if not (here / "folder" / "tiny.gguf").exists():
            (here / "folder" / "tiny.gguf").symlink_to(here / "tiny.gguf")
        ran = run("heads", text, "--json")
        assert ran.code == 0, ran.err
        assert [(row["heads"], row["groups"]) for row in ran.document["layers"]] == [(4, 2)]


def write_gguf(gguf, path):
    """A Llama of one layer, 4 query heads in 2 groups."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(4)
    writer.add_vocab_size(12)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{number}" for number in range(12)])
    writer.add_token_scores([0.0] * 12)
    writer.add_token_types([1] * 12)
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "token_embd.weight": (12, 16),
        "output.weight": (12, 16),
        "output_norm.weight": (16,),
        "blk.0.attn_q.weight": (16, 16),
        "blk.0.attn_k.weight": (8, 16),
        "blk.0.attn_v.weight": (8, 16),
        "blk.0.attn_output.weight": (16, 16),
        "blk.0.attn_norm.weight": (16,),
        "blk.0.ffn_norm.weight": (16,),
        "blk.0.ffn_gate.weight": (8, 16),
        "blk.0.ffn_up.weight": (8, 16),
        "blk.0.ffn_down.weight": (16, 8),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, torch.randn(shape, generator=draw).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my-modell", "there is no my-modell here (did you mean 'my-model'?), and transformers"),
        ("empty", "empty holds no model: expected config.json, pruned.json or a .gguf file in it; it holds nothing"),
        ("task.py", "task.py is a file, but no .gguf; give the directory"),
        ("nowhere/at/all", "there is no nowhere/at/all"),
        ("own.py:biuld", "own.py has no biuld (did you mean 'build'?)"),
        ("own.py:nothing", "own.py:nothing returned a int; expected a torch.nn.Module"),
        ("onw.py:build", "there is no file onw.py (did you mean 'own.py'?)"),
        ("unknown", "knows no model type 'bertt' (did you mean 'bert'?)"),
        ("untyped", "its config.json does not say what it is: it has no model_type"),
        ("damaged", "not JSON, or cut off in the middle"),
        (
            "classless",
            "transformers has no class BertForSequenceClasification (did you mean 'BertForSequenceClassification'?)",
        ),
        ("remote", "remote brings code of its own along; --trust-remote-code runs it"),
        ("several", "several holds several models: several/a.gguf, several/b.gguf; give one of these files"),
        ("weightless", "transformers can't read this model: "),
    ],
)
def test_a_model_that_cant_be_read(run, here, text, message):
    def config(folder: str, **fields):
        (here / folder).mkdir()
        (here / folder / "config.json").write_text(json.dumps(fields))

    (here / "empty").mkdir()
    config("unknown", model_type="bertt")
    config("untyped", architectures=["BertModel"])
    config("classless", model_type="bert", architectures=["BertForSequenceClasification"])
    config("remote", model_type="mine", auto_map={"AutoModel": "mine.Mine"})
    config("weightless", model_type="bert", architectures=["BertModel"])
    config("damaged")
    (here / "damaged" / "config.json").write_text("{")
    (here / "several").mkdir()
    for name in "ab":
        (here / "several" / f"{name}.gguf").write_bytes(b"")
    ran = run("heads", text)
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith("mha: error: ")
    assert message in ran.err


def test_remote_code_runs_only_if_asked_for(run, here):
    (here / "remote").mkdir()
    (here / "remote" / "mine.py").write_text("raise SystemExit('it ran')\n")
    settings = {
        "model_type": "mine",
        "architectures": ["Mine"],
        "auto_map": {"AutoConfig": "mine.C", "AutoModel": "mine.Mine"},
    }
    (here / "remote" / "config.json").write_text(json.dumps(settings))
    assert run("heads", "remote").code == 1
    with pytest.raises(SystemExit, match="it ran"):
        run("heads", "remote", "--trust-remote-code")


def test_a_model_of_a_base_class_without_architectures(run, here):
    config = transformers.LlamaConfig(hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4,
                                      num_key_value_heads=2, vocab_size=11)  # fmt: skip
    transformers.LlamaModel(config).save_pretrained(here / "base")
    settings = json.loads((here / "base" / "config.json").read_text())
    settings.pop("architectures")
    (here / "base" / "config.json").write_text(json.dumps(settings))
    document = run("heads", "base", "--dtype", "float64", "--json").document
    assert document["class"] == "LlamaModel"
    assert [(row["heads"], row["groups"]) for row in document["layers"]] == [(4, 2)]


def test_a_device_that_is_not_there(run):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    ran = run("heads", "my-model", "--device", "cuda")
    assert ran.code == 1
    assert "mha: error: --device cuda: " in ran.err
