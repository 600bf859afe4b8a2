"""Pruned models that come back from a directory, where people use them, against the dense model without those heads.

The dense model loses heads here in a way of its own: what its output projections read of them is set to zero.
"""

import copy
from typing import Any

import pytest
import torch

import mha
from tests.mha.cli.tiny import tiny_bert, tokenizer
from tests.mha.support.language_models import UNEVEN, build, uneven
from tests.mha.support.transformers_models import SEQ2SEQ, transformers

MODELS = {"llama": ("AutoModelForCausalLM", UNEVEN), "bart": ("AutoModelForSeq2SeqLM", {**SEQ2SEQ, "d_model": 30})}
IN_DECODER = {"0.self_attn": (), "0.encoder_attn": (4,), "1.encoder_attn": ()}
IDS = torch.tensor([[5, 3, 7, 11, 13, 2, 9, 4], [0, 0, 0, 17, 19, 23, 29, 31]])  # the second is padded
BEAMS = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.7}


def without_lost_heads(model, plan) -> Any:
    """A copy of the whole model, whose output projections read zeros in place of the lost heads."""
    model = copy.deepcopy(model)
    for layer in mha.find_attention(model).values():
        lost = set(layer.heads) - set(plan.keep.get(layer.name, layer.heads))
        output = layer.module.get_submodule(layer.description.output)
        with torch.no_grad():
            for head in lost:
                output.weight[:, head * layer.head_dim : (head + 1) * layer.head_dim] = 0
    return model


def back(model, folder) -> Any:
    """The model, saved and read again."""
    mha.save_pruned(model, folder)
    return mha.from_pretrained(folder)


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory) -> tuple[Any, Any, Any]:
    """A model, its equal with lost heads set to zero, and the pruned one that was read from a directory."""
    auto, sizes = MODELS[request.param]
    model = build(request.param, auto, **sizes)
    model.generation_config.update(eos_token_id=None, forced_eos_token_id=None, decoder_start_token_id=1)
    more = IN_DECODER if request.param == "bart" else {}
    plan = mha.HeadPlan({**uneven(model).keep, **{f"model.decoder.layers.{name}": more[name] for name in more}})
    pruned = back(mha.prune(model, plan), tmp_path_factory.mktemp("pruned") / "smaller")
    return model, without_lost_heads(model, plan), pruned


def generated(model, ids=IDS, **options) -> Any:
    return model.generate(
        ids,
        attention_mask=(ids != 0).long(),
        max_new_tokens=7,
        do_sample=False,
        pad_token_id=0,
        disable_compile=True,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"use_cache": False}, BEAMS, {"cache_implementation": "static"}, {"cache_implementation": "static", **BEAMS}],
    ids=["greedy", "no cache", "beams", "static cache", "beams in a static cache"],
)
def test_generation(pair, options):
    _, expected, pruned = pair
    expected, made = generated(expected, **options), generated(pruned, **options)
    assert torch.equal(made.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(made.logits), torch.stack(expected.logits), rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Passing `generation_config` together")
def test_assisted_decoding(pair):
    """As the model that is assisted, and as the assistant."""
    model, without, pruned = pair
    one = IDS[:1]
    expected = generated(without, one)
    for how in ({"assistant_model": model}, {"prompt_lookup_num_tokens": 3}):
        made = generated(pruned, one, **how)
        assert torch.equal(made.sequences, expected.sequences)
        torch.testing.assert_close(torch.stack(made.logits), torch.stack(expected.logits), rtol=0, atol=1e-10)
    expected = generated(model, one)
    assert torch.equal(generated(model, one, assistant_model=pruned).sequences, expected.sequences)


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_over_devices_and_a_disk(pair, tmp_path):
    """accelerate lays layers where it is told: the second lies on disk, and is read when its turn comes."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    pruned = copy.deepcopy(pair[2])
    expected = generated(pruned)
    blocks = [name.rpartition(".")[0] for name in mha.find_attention(pruned)]
    places = {name: "cpu" for name, module in pruned.named_modules() if name and not list(module.children())}
    places = {name: place for name, place in places.items() if not name.startswith("model.layers.")}
    places |= dict.fromkeys(blocks, "cpu") | {blocks[1]: "disk"}
    accelerate.dispatch_model(pruned, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    away = {name for name, parameter in pruned.named_parameters() if parameter.is_meta}
    assert {".".join(name.split(".")[:3]) for name in away} == {blocks[1]}
    made = generated(pruned)
    assert torch.equal(made.sequences, expected.sequences)
    assert torch.equal(torch.stack(made.logits), torch.stack(expected.logits))
    with pytest.raises(mha.MhaError, match=f"{blocks[1]}.* is on the meta device: there are no weights to save"):
        mha.save_pruned(pruned, tmp_path / "again")
    accelerate.hooks.remove_hook_from_submodules(pruned)  # which brings back what lay elsewhere


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_blocks_stay_whole_where_memory_is_divided(pair):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    pruned = pair[2]
    sizes = accelerate.utils.compute_module_sizes(pruned)
    memory = {"cpu": int(0.6 * sizes[""]), "disk": 10 * sizes[""]}
    places = accelerate.infer_auto_device_map(pruned, memory, no_split_module_classes=pruned._no_split_modules)
    assert set(places.values()) == {"cpu", "disk"}
    attention = mha.find_attention(pruned)
    assert not any(place.startswith(f"{name.rpartition('.')[0]}.") for place in places for name in attention)


def test_beside_a_tokenizer_and_in_pipelines(tmp_path):
    model = tiny_bert().double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokenizer().save_pretrained(tmp_path)
    transformers.GenerationConfig(max_new_tokens=3).save_pretrained(tmp_path)
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pruned = back(mha.prune(model, uneven(model)), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in there} == there
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert transformers.GenerationConfig.from_pretrained(tmp_path).max_new_tokens == 3
    texts = ["the cat sat on the mat", "a dog ran"]
    answers = [
        transformers.pipeline("text-classification", model=one, tokenizer=words, top_k=None, batch_size=2)(texts)
        for one in (without_lost_heads(model, uneven(model)), model, pruned)
    ]
    expected, whole, made = ([{one["label"]: one["score"] for one in text} for text in answer] for answer in answers)
    assert made == [pytest.approx(scores, abs=1e-6) for scores in expected]
    assert made != [pytest.approx(scores, abs=1e-2) for scores in whole]
