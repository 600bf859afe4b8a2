"""Checkpoints: what comes back is what was saved, and everything else is refused by name."""

import copy
import hashlib
import json
import os
import re
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import mha
from mha import HeadPlan
from mha.pruning.checkpoint import directory as checkpoint_directory
from mha.pruning.checkpoint.loading import from_pretrained, load_pruned
from mha.pruning.checkpoint.saving import save_pruned
from mha.values.errors import CheckpointError

UNEVEN = HeadPlan({"plain": (1, 4, 6), "grouped": (2, 3, 8, 9), "cross": ()})
OTHER = HeadPlan({"plain": (0,)})


@pytest.fixture
def pruned(model):
    return mha.prune(model, UNEVEN)


@pytest.fixture
def directory(pruned, tmp_path) -> Path:
    save_pruned(pruned, tmp_path / "saved")
    return tmp_path / "saved"


def other_of(model: nn.Module) -> nn.Module:
    """The same architecture with other weights, in training mode."""
    other = copy.deepcopy(model).train()
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.7)
    return other


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def assert_same(loaded: nn.Module, saved: nn.Module) -> None:
    expected, found = tensors(saved), tensors(loaded)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].device) == (tensor.dtype, tensor.device), name
        assert torch.equal(found[name], tensor), name
    assert not any(module.training for module in loaded.modules())


def weights_in(directory: Path) -> Path:
    (path,) = directory.glob("*.safetensors")
    return path


def rewrite(directory: Path, **changes) -> None:
    """Change `pruned.json` as someone would who knows how its digest is made."""
    path = directory / "pruned.json"
    document = {**json.loads(path.read_text()), **changes}
    content = {key: value for key, value in document.items() if key not in ("format", "version", "sha256")}
    document["sha256"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    path.write_text(json.dumps(document))


# What is saved comes back


def test_round_trip(model, pruned, directory, inputs):
    loaded = load_pruned(directory, other_of(model))
    assert_same(loaded, pruned)
    assert torch.equal(loaded(*inputs), pruned(*inputs))
    assert mha.plan_of(loaded) == UNEVEN
    assert [layer.lineage for layer in mha.find_attention(loaded).values()] == [
        layer.lineage for layer in mha.find_attention(pruned).values()
    ]


def test_the_given_model_is_left_untouched(model, directory):
    given = other_of(model)
    before = copy.deepcopy(given.state_dict())
    load_pruned(directory, given)
    assert given.training
    assert mha.plan_of(given) == HeadPlan({})
    assert given.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())


def test_what_was_pruned_twice_is_loaded_in_one_step(model, inputs, tmp_path):
    twice = mha.prune(mha.prune(model, HeadPlan({"plain": (0, 2, 5, 6), "cross": (1, 2)})), HeadPlan({"plain": (2, 6)}))
    save_pruned(twice, tmp_path)
    loaded = load_pruned(tmp_path, other_of(model))
    assert mha.plan_of(loaded) == HeadPlan({"plain": (2, 6), "cross": (1, 2)})
    assert torch.equal(loaded(*inputs), twice(*inputs))
    third = HeadPlan({"plain": (6,)})
    assert torch.equal(mha.prune(loaded, third)(*inputs), mha.prune(twice, third)(*inputs))


def test_layers_without_heads_as_earlier_releases_saved_them(model, inputs, tmp_path):
    """They kept linears of size 0, and the bias of the output under the linear's name."""
    pruned = mha.prune(model, HeadPlan({"plain": (2, 6), "cross": ()}))
    save_pruned(pruned, tmp_path)
    content, tensors = checkpoint_directory.read(tmp_path)
    kept = {name.replace("_without_heads", ""): tensor for name, tensor in tensors.items()}
    layer = dict(model.cross.named_parameters())
    for name in ("W_q", "W_k", "W_v"):
        kept[f"cross.{name}.weight"] = layer[f"{name}.weight"].detach()[:0].clone()
        kept[f"cross.{name}.bias"] = layer[f"{name}.bias"].detach()[:0].clone()
    kept["cross.W_o.weight"] = layer["W_o.weight"].detach()[:, :0].clone()
    checkpoint_directory.write(tmp_path, {key: value for key, value in content.items() if key != "weights"}, kept)
    loaded = load_pruned(tmp_path, other_of(model))
    assert mha.plan_of(loaded) == mha.plan_of(pruned)
    assert torch.equal(loaded(*inputs), pruned(*inputs))
    assert loaded.state_dict().keys() == pruned.state_dict().keys()


def test_a_whole_model_is_saved_too(model, inputs, tmp_path):
    save_pruned(model, tmp_path)
    loaded = load_pruned(tmp_path, other_of(model))
    assert mha.plan_of(loaded) == HeadPlan({})
    assert torch.equal(loaded(*inputs), model(*inputs))


def test_a_model_without_data_will_do(model, pruned, directory, inputs):
    loaded = load_pruned(directory, copy.deepcopy(model).to("meta"))
    assert_same(loaded, pruned)
    assert torch.equal(loaded(*inputs), pruned(*inputs))


def test_each_tensor_keeps_its_dtype(model, tmp_path):
    pruned = mha.prune(model, UNEVEN).bfloat16()
    pruned.classify.float()
    save_pruned(pruned, tmp_path)
    loaded = load_pruned(tmp_path, model)
    assert_same(loaded, pruned)
    assert loaded.plain.W_q.weight.dtype == torch.bfloat16


def test_what_is_trainable_is_the_given_models(model, directory):
    given = other_of(model)
    given.plain.W_q.weight.requires_grad_(False)
    loaded = load_pruned(directory, given)
    assert not loaded.plain.W_q.weight.requires_grad
    assert loaded.plain.W_k.weight.requires_grad


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("options", [{}, {"batch_first": True, "bias": False}], ids=["sequence-first", "batch-first"])
def test_torch_layers(options, tmp_path):
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(42, 6, 23, **options), 2).double().eval()

    model = build(1)
    pruned = mha.prune(model, HeadPlan({"layers.0.self_attn": (0, 5), "layers.1.self_attn": ()}))
    save_pruned(pruned, tmp_path)
    loaded = load_pruned(tmp_path, build(2))
    x = torch.randn(5, 3, 42, dtype=torch.float64)
    assert_same(loaded, pruned)
    assert torch.equal(loaded(x), pruned(x))


class Odd(nn.Module):
    """Tied and overlapping tensors, and buffers that a state dict leaves out."""

    def __init__(self, *, tie: bool = True) -> None:
        super().__init__()
        self.attention = mha.MultiHeadAttention.square(14, 7)
        self.first = nn.Linear(11, 11)
        self.second = nn.Linear(11, 11)
        if tie:
            self.second.weight = self.first.weight
        self.register_buffer("steps", torch.arange(3))
        self.register_buffer("scale", torch.rand(5), persistent=False)
        self.register_buffer("shown", torch.rand(13).expand(2, 13))
        table = torch.rand(6, 17)
        self.register_buffer("table", table)
        self.register_buffer("turned", table.t())
        self.register_buffer("row", table[3])


@pytest.mark.parametrize("skeleton_ties", [True, False])
def test_tied_weights_come_back_tied(tmp_path, skeleton_ties):
    saved = mha.prune(Odd(), HeadPlan({"attention": (3,)})).eval()
    assert saved.second.weight is saved.first.weight
    save_pruned(saved, tmp_path)
    loaded = load_pruned(tmp_path, Odd(tie=skeleton_ties))
    assert_same(loaded, saved)
    assert loaded.second.weight is loaded.first.weight


def test_weights_that_were_untied_stay_apart(tmp_path):
    saved = Odd(tie=False).eval()
    save_pruned(saved, tmp_path)
    loaded = load_pruned(tmp_path, Odd(tie=True))
    assert_same(loaded, saved)
    assert loaded.second.weight is not loaded.first.weight


def test_what_a_model_makes_while_it_runs_may_have_grown(tmp_path):
    saved = Odd().eval()
    saved.scale = torch.rand(9)
    saved.register_buffer("late", torch.rand(2), persistent=False)
    save_pruned(saved, tmp_path)
    loaded = load_pruned(tmp_path, Odd())
    assert torch.equal(loaded.scale, saved.scale)
    assert not hasattr(loaded, "late")
    given = Odd()
    given.register_buffer("early", torch.rand(2), persistent=False)
    assert torch.equal(load_pruned(tmp_path, given).early, given.early)
    with pytest.raises(CheckpointError, match="early is not in the checkpoint"):
        load_pruned(tmp_path, given.to("meta"))


def test_a_compiled_model_is_saved_as_what_was_compiled(model, pruned, tmp_path):
    save_pruned(torch.compile(pruned, backend="eager"), tmp_path)
    assert_same(load_pruned(tmp_path, torch.compile(model, backend="eager")), pruned)


# What is on the disk


def test_nothing_but_json_and_safetensors(directory):
    weights = weights_in(directory)
    assert {path.name for path in directory.iterdir()} - {".pruned.lock"} == {"pruned.json", weights.name}
    assert weights.name == f"pruned-{hashlib.sha256(weights.read_bytes()).hexdigest()}.safetensors"
    document = json.loads((directory / "pruned.json").read_text())
    assert (document["format"], document["version"]) == ("mha.pruned", 1)
    assert document["plan"] == {name: list(heads) for name, heads in UNEVEN.keep.items()}
    assert document["attention"]["grouped"] == {"heads": 10, "groups": 5}
    assert document["versions"]["torch"] == torch.__version__


def test_saving_again_replaces_and_leaves_other_files_alone(model, directory):
    first = weights_in(directory)
    others = {"notes.txt": "mine", "pruned-v2.safetensors": "mine too", "model.safetensors": "theirs"}
    for name, text in others.items():
        (directory / name).write_text(text)
    orphan = directory / f"pruned-{'0' * 64}.safetensors"
    for abandoned in (orphan, directory / "pruned.json.partial", directory / "pruned.safetensors.partial"):
        abandoned.write_text("left by a crash")
    again = mha.prune(model, OTHER)
    save_pruned(again, directory)
    assert_same(load_pruned(directory, model), again)
    assert {name: (directory / name).read_text() for name in others} == others
    assert not first.exists()
    assert not orphan.exists()
    assert list(directory.glob("*.partial")) == []


class CrashError(Exception):
    pass


STEPS = ("save_file", "fsync", "replace", "unlink")


@pytest.mark.parametrize(("step", "call"), [(step, call) for step in STEPS for call in range(4)])
def test_a_crash_leaves_the_old_or_the_new(model, pruned, directory, monkeypatch, step, call):
    """Whatever step of the second save is its last, and however much of it was done."""
    again, calls = mha.prune(model, OTHER), 0
    owner = {"save_file": checkpoint_directory, "unlink": Path}.get(step, os)
    honest = getattr(owner, step)

    def crash(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls <= call:
            return honest(*args, **kwargs)
        if step == "save_file":
            Path(args[1]).write_bytes(b"half")
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, crash)
        try:
            save_pruned(again, directory)
            finished = True
        except CrashError:
            finished = False
    switched = finished or step == "unlink" or (step, call) == ("fsync", 3)
    assert finished == (call >= {"save_file": 1, "fsync": 4, "replace": 2, "unlink": 1}[step])
    assert_same(load_pruned(directory, model), again if switched else pruned)
    save_pruned(again, directory)
    assert_same(load_pruned(directory, model), again)
    weights_in(directory)


def test_savers_and_readers_at_once_never_see_a_mixture(model, directory):
    plans = [HeadPlan({"plain": heads}) for heads in ((0,), (1, 2), (3, 4, 5))]
    models = {plan: mha.prune(model, plan) for plan in plans}
    save_pruned(models[plans[0]], directory)
    errors = []

    def save(plan: HeadPlan) -> None:
        try:
            for _ in range(5):
                save_pruned(models[plan], directory)
        except BaseException as error:
            errors.append(error)

    savers = [threading.Thread(target=save, args=(plan,)) for plan in plans]
    for saver in savers:
        saver.start()
    while any(saver.is_alive() for saver in savers):
        loaded = load_pruned(directory, model)
        assert_same(loaded, models[mha.plan_of(loaded)])
    assert errors == []
    weights_in(directory)


def test_weights_replaced_while_they_are_read_are_read_again(model, directory, monkeypatch):
    again = mha.prune(model, OTHER)
    honest = checkpoint_directory._read_weights

    def overtaken(*args):
        monkeypatch.setattr(checkpoint_directory, "_read_weights", honest)
        save_pruned(again, directory)
        return honest(*args)

    monkeypatch.setattr(checkpoint_directory, "_read_weights", overtaken)
    assert_same(load_pruned(directory, model), again)


# What is refused


@pytest.mark.parametrize("place", ["empty", "missing", "file"])
def test_a_foreign_directory_is_refused(tmp_path, place, model):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    with pytest.raises(CheckpointError, match=rf"{place} (has|is).* pruned.json: it was not written by mha.save_prun"):
        load_pruned(tmp_path / place, model)


def test_a_file_is_no_place_to_save_to(model, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(CheckpointError, match="file is a file; a checkpoint is a directory"):
        save_pruned(model, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_cut_off_json_is_refused(model, directory, share):
    path = directory / "pruned.json"
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(CheckpointError, match=r"pruned\.json: not JSON, or cut off in the middle"):
        load_pruned(directory, model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r'not a pruned model: expected a JSON object with "format": "mha.pruned"'),
        ('{"format": "mha.HeadPlan", "version": 1}', "not a pruned model"),
        ('{"format": "mha.pruned", "version": 2}', "version 2 of the format; this release reads version 1"),
        ('{"format": "mha.pruned"}', "version None of the format"),
        ('{"format": "mha.pruned", "version": 1}', "damaged"),
        ("\udcff", "not JSON"),
    ],
)
def test_foreign_json_is_refused(model, directory, text, message):
    (directory / "pruned.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CheckpointError, match=rf"pruned\.json: {message}"):
        load_pruned(directory, model)


def test_changed_json_is_refused(model, directory):
    path = directory / "pruned.json"
    changed = path.read_text().replace('"groups": 5', '"groups": 6')
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(CheckpointError, match=r"pruned\.json: damaged: its contents are not what was saved"):
        load_pruned(directory, model)


@pytest.mark.parametrize("place", [0, 8, 0.5, -1], ids=["length", "header", "middle", "last"])
def test_a_flipped_byte_is_refused(model, directory, place):
    path = weights_in(directory)
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{path.name}: damaged: its contents are not what was saved"):
        load_pruned(directory, model)


def test_cut_off_or_missing_weights_are_refused(model, directory):
    path = weights_in(directory)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=rf"damaged: expected {len(data)} bytes, found {len(data) - 1}"):
        load_pruned(directory, model)
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"saved: {path.name} is missing; copy the whole directory"):
        load_pruned(directory, model)


def test_other_contents_under_the_right_digest_are_refused(model, directory):
    data = b"not safetensors"
    digest = hashlib.sha256(data).hexdigest()
    (directory / f"pruned-{digest}.safetensors").write_bytes(data)
    rewrite(directory, weights={"sha256": digest, "size": len(data)})
    with pytest.raises(CheckpointError, match="not in the safetensors format, or unreadable"):
        load_pruned(directory, model)


def test_without_a_model_it_says_what_it_needs(directory):
    for load in (load_pruned, from_pretrained):
        with pytest.raises(CheckpointError, match=r":Reader, which transformers .* load_pruned\(directory, model\)$"):
            load(directory)


def test_a_model_of_another_architecture_is_refused(model, directory):
    with pytest.raises(CheckpointError, match=r"do not fit the Linear: .*the model has no attention of a known family"):
        load_pruned(directory, nn.Linear(3, 3))
    wider = copy.deepcopy(model)
    wider.classify = nn.Linear(23, 3)
    with pytest.raises(CheckpointError, match=r"classify.weight was saved with shape \(2, 23\) and has \(3, 23\)"):
        load_pruned(directory, wider)
    more = copy.deepcopy(model)
    more.extra = nn.Linear(3, 3)
    with pytest.raises(CheckpointError, match=r"Reader: extra.bias is not in the checkpoint; extra.weight is not"):
        load_pruned(directory, more)
    less = copy.deepcopy(model)
    less.embed = nn.Identity()
    with pytest.raises(
        CheckpointError, match=r"embed.bias is not in the model; embed.weight is not in the model; give"
    ):
        load_pruned(directory, less)
    many = nn.ModuleDict({**dict(model.named_children()), "many": nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))})
    with pytest.raises(CheckpointError, match=r"many.2.bias is not in the checkpoint, and 3 more; give"):
        load_pruned(directory, many)


def test_the_same_shapes_divided_into_other_heads_are_refused(tmp_path):
    save_pruned(mha.MultiHeadAttention.square(12, 6), tmp_path)
    message = r"layer '' was made with {'heads': 6, 'groups': 6} when saved, and with {'heads': 4, 'groups': 4} here"
    with pytest.raises(CheckpointError, match=message):
        load_pruned(tmp_path, mha.MultiHeadAttention.square(12, 4))


def test_a_model_that_was_pruned_otherwise_is_refused(model, pruned, directory):
    with pytest.raises(CheckpointError, match=r"layer 'plain': heads \[1, 4, 6\] have been pruned before"):
        load_pruned(directory, mha.prune(model, HeadPlan({"plain": (0,)})))
    save_pruned(mha.prune(model, OTHER), directory)
    with pytest.raises(CheckpointError, match=r"layer 'cross' was whole when saved and has been pruned to heads \[\]"):
        load_pruned(directory, mha.prune(model, HeadPlan({"cross": ()})))
    save_pruned(pruned, directory)
    assert_same(load_pruned(directory, mha.prune(model, HeadPlan({"plain": (1, 4, 5, 6)}))), pruned)


class Stateful(nn.Linear):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda model: model.to("meta"), "embed.weight is on the meta device: there are no weights to save"),
        (lambda model: model.register_module("late", nn.LazyLinear(3)), "late.weight is no plain .*UninitializedPar"),
        (
            lambda model: model.register_buffer("coo", torch.eye(3).to_sparse()),
            r"coo is no plain dense tensor \(Tensor, torch.sparse_coo",
        ),
        (
            lambda model: model.register_module("counted", Stateful(3, 3)),
            "module 'counted': Stateful has extra state",
        ),
    ],
    ids=["meta", "uninitialised", "sparse", "extra-state"],
)
def test_a_model_that_cannot_be_saved_leaves_the_directory_alone(model, pruned, directory, break_it, message):
    broken = copy.deepcopy(model)
    break_it(broken)
    with pytest.raises(CheckpointError, match=message):
        save_pruned(broken, directory)
    assert_same(load_pruned(directory, model), pruned)


# transformers


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


TEXT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 40, "vocab_size": 97}
GPT = {"n_embd": 48, "n_layer": 2, "n_head": 6, "vocab_size": 97, "n_positions": 64}
BART = {
    "d_model": 48,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 2), ("ffn_dim", 40))},
    **{f"{side}_attention_heads": 6 for side in ("encoder", "decoder")},
}
LLAMA = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
PHI = {**TEXT, "num_key_value_heads": 2, "pad_token_id": 0}
MODELS = {
    "BertForMaskedLM": ("bert", TEXT),  # head tied to the embedding
    "GPT2LMHeadModel": ("gpt2", GPT),  # tied; weights the other way round
    "BartForConditionalGeneration": ("bart", BART),
    "LlamaForCausalLM": ("llama", LLAMA),  # buffers that a state dict leaves out
    "Phi3ForCausalLM": ("phi3", PHI),  # config read in forward
}


def build(transformers, name: str, seed: int = 1, **options):
    model_type, sizes = MODELS[name]
    config = transformers.AutoConfig.for_model(model_type, **sizes, **options)
    config.bos_token_id = config.eos_token_id = None
    torch.manual_seed(seed)
    model = getattr(transformers, name)(config).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def plan_for(model) -> HeadPlan:
    """One group of the first layer, none of the second, two of the others."""
    keep = {}
    for place, (name, layer) in enumerate(mha.find_attention(model).items()):
        per_group = layer.num_heads // layer.num_kv_heads
        groups = {0: 1, 1: 0}.get(place, 2)
        keep[name] = range(layer.num_heads - groups * per_group, layer.num_heads)
    return HeadPlan(keep)


def logits(model):
    ids = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("given", [False, True], ids=["alone", "model-given"])
def test_transformers_round_trip(transformers, name, given, tmp_path):
    model = build(transformers, name)
    plan = plan_for(model)
    pruned = mha.prune(model, plan)
    save_pruned(pruned, tmp_path)
    loaded = load_pruned(tmp_path, build(transformers, name, seed=3)) if given else from_pretrained(tmp_path)
    assert (type(loaded), type(loaded.config)) == (type(model), type(model.config))
    assert_same(loaded, pruned)
    assert torch.equal(logits(loaded), logits(pruned))
    assert loaded.config.to_dict() == pruned.config.to_dict() | {"dtype": loaded.config.to_dict()["dtype"]}
    ties = {(a, b) for a, x in tensors(pruned).items() for b, y in tensors(pruned).items() if x is y}
    assert ties == {(a, b) for a, x in tensors(loaded).items() for b, y in tensors(loaded).items() if x is y}
    assert (len(ties) > len(tensors(pruned))) == (name not in ("LlamaForCausalLM", "Phi3ForCausalLM"))
    again = tmp_path / "again"
    save_pruned(loaded, again)
    assert weights_in(again).name == weights_in(tmp_path).name


def test_transformers_in_half_precision(transformers, tmp_path):
    pruned = build(transformers, "LlamaForCausalLM").bfloat16()
    pruned = mha.prune(pruned, plan_for(pruned))
    save_pruned(pruned, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert_same(loaded, pruned)  # the rotary frequencies too, which a new model has in float32
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(logits(loaded), logits(pruned))


def test_how_to_generate_is_saved(transformers, tmp_path):
    model = build(transformers, "GPT2LMHeadModel")
    model.generation_config.max_new_tokens = 7
    model.generation_config.repetition_penalty = 1.25
    pruned = mha.prune(model, plan_for(model))
    save_pruned(pruned, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert loaded.generation_config.to_diff_dict() == model.generation_config.to_diff_dict()
    ids = torch.tensor([[5, 3, 7]])
    expected = pruned.generate(ids, do_sample=False, pad_token_id=0)
    assert expected.shape == (1, 10)
    assert torch.equal(loaded.generate(ids, do_sample=False, pad_token_id=0), expected)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_how_attention_is_computed_is_saved(transformers, tmp_path, implementation):
    save_pruned(build(transformers, "GPT2LMHeadModel", attn_implementation=implementation), tmp_path)
    assert from_pretrained(tmp_path).config._attn_implementation == implementation


def test_how_each_part_computes_attention_is_saved(transformers, tmp_path):
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 11}, vision_config={**small, "image_size": 4, "patch_size": 2}
    )
    config._attn_implementation = {"text_config": "eager", "vision_config": "sdpa"}
    model = transformers.CLIPModel(config)
    save_pruned(mha.prune(model, HeadPlan({"vision_model.encoder.layers.0.self_attn": (1,)})), tmp_path)
    loaded = from_pretrained(tmp_path)
    parts = (loaded.text_model.encoder.layers[0].self_attn, loaded.vision_model.encoder.layers[0].self_attn)
    assert [part.config._attn_implementation for part in parts] == ["eager", "sdpa"]


@pytest.mark.parametrize(
    "model_class",
    [
        "os:system",
        "transformers.models.bert:os.system",
        "transformers.models..os:system",
        "transformers.models.bert.modeling_bert:nn",
        "transformers.models.bert.modeling_bert:BertConfig",
        "transformers.models.bert.modeling_bert:NoSuchModel",
        "transformers.models.no_such_module:BertModel",
        "transformers.utils.import_utils:is_torch_available",
        "",
    ],
)
def test_no_other_code_is_run(transformers, model_class, tmp_path):
    save_pruned(build(transformers, "BertForMaskedLM"), tmp_path)
    rewrite(tmp_path, model_class=model_class)
    with pytest.raises(
        CheckpointError, match=f"holds a {re.escape(model_class)}, .*load_pruned\\(directory, model\\)$"
    ):
        load_pruned(tmp_path)


def test_the_configuration_is_one_of_transformers_too(transformers, tmp_path):
    save_pruned(build(transformers, "BertForMaskedLM"), tmp_path)
    for config_class in ("os:system", "transformers.models.bert.modeling_bert:BertModel"):
        rewrite(tmp_path, config_class=config_class)
        with pytest.raises(
            CheckpointError, match=rf"{config_class} is no PreTrainedConfig of transformers that may be built"
        ):
            load_pruned(tmp_path)


def test_tensors_that_are_neither_parameters_nor_buffers_are_made_again(transformers, tmp_path):
    heads = {"num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 8, "num_hidden_layers": 1}
    widths = {"hidden_size": 48, "upsample_groups": 48, "intermediate_size": 40, "num_filters": 4, "codebook_size": 8}
    model = transformers.MimiModel(transformers.MimiConfig(**heads, **widths)).eval()
    convolution = "encoder.encoder_seanet.layers.0"
    assert isinstance(model.get_submodule(convolution).padding_right, torch.Tensor)
    save_pruned(model, tmp_path)
    loaded = load_pruned(tmp_path)
    assert_same(loaded, model)
    assert torch.equal(*(m.get_submodule(convolution).padding_right for m in (loaded, model)))


def test_transformers_own_loader_is_not_misled(transformers, tmp_path):
    """No file of a name that transformers would take for a whole model."""
    save_pruned(build(transformers, "BertForMaskedLM"), tmp_path)
    assert not any((tmp_path / name).exists() for name in ("config.json", "model.safetensors", "pytorch_model.bin"))


def test_another_transformers_model_is_refused(transformers, tmp_path):
    model = build(transformers, "GPT2LMHeadModel")
    save_pruned(mha.prune(model, plan_for(model)), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"do not fit the BertForMaskedLM: layer 'transformer.h.0.attn' is not in"
    ):
        load_pruned(tmp_path, build(transformers, "BertForMaskedLM"))


def test_a_users_subclass_needs_the_model(transformers, tmp_path):
    class Mine(transformers.BertForMaskedLM):
        pass

    model = Mine(build(transformers, "BertForMaskedLM").config).eval()
    pruned = mha.prune(model, plan_for(model))
    save_pruned(pruned, tmp_path)
    with pytest.raises(CheckpointError, match="Mine, which transformers does not define; give the model"):
        load_pruned(tmp_path)
    assert_same(load_pruned(tmp_path, model), pruned)


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it will move elsewhere
def test_a_quantised_model_is_refused_not_saved_without_its_weights(tmp_path):
    if not torch.backends.quantized.supported_engines[1:]:
        pytest.skip("this torch has no engine for quantised linears")
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(5, 3)), {nn.Linear})
    with pytest.raises(CheckpointError, match=r"module '0.*': Linear\w* keeps .* outside of parameters and buffers"):
        save_pruned(quantised, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_state_dict_that_a_hook_adds_to_is_refused(model, tmp_path):
    model.embed.register_state_dict_post_hook(
        lambda module, state, prefix, _: state.update({f"{prefix}more": module.weight})
    )
    with pytest.raises(CheckpointError, match=r"module 'embed': Linear keeps embed.more outside of parameters"):
        save_pruned(model, tmp_path)


def test_parametrized_weights_come_back_parametrized(model, tmp_path):
    torch.nn.utils.parametrizations.weight_norm(model.classify)
    pruned = mha.prune(model, UNEVEN)
    save_pruned(pruned, tmp_path)
    assert_same(load_pruned(tmp_path, other_of(model)), pruned)
