"""Checkpoints whose digests are right and whose contents are not: nothing runs, and only CheckpointError is raised."""

import copy
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mha
from mha import HeadPlan
from mha.values.errors import CheckpointError

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

ROOT = Path(__file__).parents[4]
BERT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 8, "vocab_size": 17}
LAYER = "encoder.layer.0.attention"


def saved(directory: Path) -> dict:
    """A checkpoint of a small BERT, and its document."""
    torch.manual_seed(1)
    model = transformers.BertModel(transformers.BertConfig(**BERT)).eval()
    mha.save_pruned(mha.prune(model, HeadPlan({LAYER: (1,)})), directory)
    document = json.loads((directory / "pruned.json").read_text())
    return {key: value for key, value in document.items() if key not in ("format", "version", "sha256")}


def write(directory: Path, content: dict, text: str | None = None) -> None:
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    document = {"format": "mha.pruned", "version": 1, "sha256": digest, **content}
    (directory / "pruned.json").write_text(text or json.dumps(document))


def changed(content: dict, path: str, value: object) -> dict:
    new = copy.deepcopy(content)
    *outer, last = path.split("/")
    place = new
    for name in outer:
        place = place.setdefault(name, {})
    place[last] = value
    return new


def composite(**parts) -> dict:
    """The recipe of a vision-and-text model instead, whose parts AutoModel builds."""
    return {
        "model_class": "transformers.models.llava.modeling_llava:LlavaModel",
        "config_class": "transformers.models.llava.configuration_llava:LlavaConfig",
        "config": {
            "text_config": parts.get("text", {}),
            "vision_config": parts.get("vision", {}),
            "model_type": "llava",
        },
    }


TIMM = "transformers.models.timm_{0}.{1}_timm_{0}:Timm{2}"
MODULE = "transformers.models.{0}.{1}_{0}:{2}"


def attacks(directory: Path, content: dict) -> dict[str, dict]:
    code = {"AutoModel": "evil--modeling.Evil", "AutoConfig": "evil--modeling.Evil"}
    own = {"AutoModel": "modeling.Evil", "AutoConfig": "modeling.Evil"}
    name = {"_name_or_path": str(directory), "name_or_path": str(directory)}
    timm = {"architecture": "resnet18", "model_args": {"checkpoint_path": str(directory / "evil.bin")}}
    detr = {
        "model_class": MODULE.format("detr", "modeling", "DetrModel"),
        "config_class": MODULE.format("detr", "configuration", "DetrConfig"),
    }
    return {
        "auto_map": changed(content, "config/auto_map", own) | {},
        "nested auto_map": content | composite(text={"model_type": "bert", "auto_map": own, **name}),
        "auto_map of a repository": content | composite(vision={"model_type": "vit", "auto_map": code}),
        "unknown type with auto_map": content | composite(text={"model_type": "evil", "auto_map": own, **name}),
        "timm wrapper": content
        | {
            "model_class": TIMM.format("wrapper", "modeling", "WrapperModel"),
            "config_class": TIMM.format("wrapper", "configuration", "WrapperConfig"),
            "config": {"model_type": "timm_wrapper", **timm},
        },
        "timm wrapper inside": content | composite(vision={"model_type": "timm_wrapper", **timm}),
        "timm by Gemma 3n": content
        | {
            "model_class": MODULE.format("gemma3n", "modeling", "Gemma3nModel"),
            "config_class": MODULE.format("gemma3n", "configuration", "Gemma3nConfig"),
            "config": {"vision_config": {"model_type": "gemma3n_vision", **timm}},
        },
        "a backbone's name": content | detr | {"config": {"backbone": "evil/repository", "use_timm_backbone": False}},
        "a backbone's path": content | detr | {"config": {"backbone": str(directory), "backbone_config": None}},
        "a timm backbone": content
        | detr
        | {"config": {"backbone_config": {"model_type": "timm_backbone", "backbone": f"local-dir:{directory}"}}},
        "a kernel for attention": changed(content, "implementations/attn_implementation", {"": "evil/kernel"}),
        "a kernel in the configuration": changed(content, "config/attn_implementation", "evil/kernel"),
        "a kernel, inner name": changed(content, "config/_attn_implementation_internal", "evil/kernel"),
        "a kernel inside": content | composite(text={"model_type": "bert", "attn_implementation": "evil/k"}),
        "another implementation": changed(content, "implementations/kernels", {"": "evil/kernel"}),
        "quantisation": changed(content, "config/quantization_config", {"quant_method": "evil", "modules": [name]}),
        "a conversion script": changed(
            content, "model_class", "transformers.models.bert.convert_bert_original_tf_checkpoint_to_pytorch:BertModel"
        ),
        "a function": changed(content, "model_class", MODULE.format("bert", "modeling", "logger")),
        "a way out": changed(content, "model_class", "transformers.models..modeling_os:BertModel"),
        "weights elsewhere": changed(content, "weights/sha256", "../../../../etc/passwd"),
        "a method": changed(content, "config/to_dict", "x"),
        "other names": changed(content, "config/attribute_map", {"auto_map": "hidden_act"}),
        "a generating repository": changed(content, "generation_config", {"custom_generate": "evil/repository"}),
    }


def test_nothing_is_run_read_or_asked(tmp_path):
    content = saved(tmp_path / "honest")
    (weights,) = (tmp_path / "honest").glob("*.safetensors")
    places = []
    for number, (name, hostile) in enumerate({"honest": content, **attacks(tmp_path / "evil", content)}.items()):
        place = tmp_path / f"{number}"
        place.mkdir()
        os.link(weights, place / weights.name)
        (place / "modeling.py").write_text("print('EVIL')")
        write(place, hostile)
        places.append((name, place))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.mha.pruning.checkpoint.hostile", *(str(place) for _, place in places)]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert "EVIL" not in ran.stdout
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    for (name, _), result in zip(places, results, strict=True):
        assert (name, result["seen"], result["imported"]) == (name, [], [])
        assert result["outcome"].startswith(("CheckpointError: ", "BertModel")), (name, result["outcome"])
    built = {name for (name, _), result in zip(places, results, strict=True) if result["outcome"] == "BertModel"}
    assert built == {
        *("honest", "auto_map", "a kernel in the configuration", "a kernel, inner name", "quantisation"),
        "a generating repository",
    }


# Contents that are wrong in other ways

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.just(10**9), st.floats(), st.text(max_size=3),
    st.just([]), st.just({}), st.just([[1]]), st.just({"": None}), st.just([1, 1]), st.just(2**70),
)  # fmt: skip


def places_in(value: object, path: tuple = ()) -> list[tuple]:
    """Every place in a document, as the keys that lead there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places_in(part, (*path, key)))]


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    directory = tmp_path_factory.mktemp("honest")
    return directory, saved(directory)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_a_right_load_or_a_checkpoint_error(honest, data):
    directory, content = honest
    hostile = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 2))):
        *outer, last = data.draw(st.sampled_from(places_in(hostile)[1:]))
        place = hostile
        for key in outer:
            place = place[key]
        if data.draw(st.booleans()):
            del place[last]
        else:
            place[last] = data.draw(ODD)
        if not places_in(hostile)[1:]:
            break
    write(directory, hostile)
    try:
        loaded = mha.load_pruned(directory)
    except CheckpointError:
        return
    assert mha.plan_of(loaded).keep[LAYER] == (1,)


@pytest.mark.parametrize("heads", [[], [0], [0, 1], [0, 1, 2]])
def test_a_plan_of_other_heads_than_were_saved(honest, heads):
    directory, content = honest
    write(directory, {**content, "plan": {LAYER: heads}})
    if heads == [0]:  # as many as were saved: which ones, only the plan tells
        assert mha.plan_of(mha.load_pruned(directory)).keep[LAYER] == (0,)
    else:
        with pytest.raises(CheckpointError, match=r"was saved with shape|not in the (model|checkpoint)"):
            mha.load_pruned(directory)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "\0"])
def test_what_no_parser_can_read(honest, text):
    write(*honest, text)
    with pytest.raises(CheckpointError, match=r"pruned\.json: not JSON"):
        mha.load_pruned(honest[0])


@pytest.mark.parametrize(
    "field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"]
)
def test_a_model_of_another_size_is_not_made(honest, field, monkeypatch):
    directory, content = honest
    write(directory, changed(content, f"config/{field}", 10**9))
    monkeypatch.setattr(
        mha.pruning.checkpoint.loading, "prune", lambda *_, **__: pytest.fail("heads were cut of a model too large")
    )
    with pytest.raises(CheckpointError, match=r"is 1000000000, and the weights|far larger than the weights"):
        mha.load_pruned(directory)


def test_integers_are_no_weights(honest, tmp_path):
    from safetensors.torch import load_file, save_file

    directory, content = honest
    write(directory, content)
    (weights,) = directory.glob("*.safetensors")
    save_file({name: tensor.to(torch.int64) for name, tensor in load_file(weights).items()}, tmp_path / "ints")
    data = (tmp_path / "ints").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / f"pruned-{digest}.safetensors").write_bytes(data)
    write(tmp_path, content | {"weights": {"sha256": digest, "size": len(data)}})
    with pytest.raises(
        CheckpointError, match=r"embeddings.LayerNorm.bias was saved as torch.int64 and is torch.float32"
    ):
        mha.load_pruned(tmp_path)


# Files


def test_no_link_is_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    place = tmp_path / "place"
    place.mkdir()
    for name in ("pruned.json", "pruned.json.partial", "pruned.safetensors.partial"):
        (place / name).symlink_to(victim)
    saved(place)
    assert victim.read_text() == "mine"
    assert not any(path.is_symlink() for path in place.iterdir())
    mha.load_pruned(place)
    (place / ".pruned.lock").unlink()
    (place / ".pruned.lock").symlink_to(victim)
    with pytest.raises(CheckpointError, match=r"\.pruned\.lock is a link, which a lock must not be"):
        saved(place)
    assert victim.read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of files are POSIX's")
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    import resource

    saved(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=rf"{tmp_path.name}: the checkpoint can't be written \("):
            mha.save_pruned(transformers.BertModel(transformers.BertConfig(**BERT)), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


SAVER = """
import sys, torch, mha
from tests.mha.support.models import Reader
torch.manual_seed(int(sys.argv[2]))
model = Reader().eval()
print("ready", flush=True)
while True:
    for heads in ((0,), (1, 2), (3, 4, 5)):
        mha.save_pruned(mha.prune(model, mha.HeadPlan({"plain": heads})), sys.argv[1])
"""


def test_loading_while_others_save_and_are_killed(model, tmp_path):
    mha.save_pruned(model, tmp_path)
    command = [sys.executable, "-c", SAVER, str(tmp_path)]
    savers = [subprocess.Popen([*command, str(n)], cwd=ROOT, stdout=subprocess.PIPE) for n in range(2)]
    try:
        for saver in savers:
            assert saver.stdout is not None
            assert saver.stdout.readline() == b"ready\n"
        for _ in range(60):
            mha.load_pruned(tmp_path, model)
    finally:
        for saver in savers:
            saver.kill()
            saver.communicate()
    orphan = tmp_path / f".pruned-{'0' * 16}.partial"
    orphan.mkdir(exist_ok=True)
    (orphan / "weights").write_text("left by a kill")
    mha.save_pruned(model, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".lock"}
    mha.load_pruned(tmp_path, model)
