"""What configurations say about heads stays true: counts, numbers of heads, and the plan itself."""

import copy
import warnings

import pytest
import torch

import mha
from mha import HeadPlan
from mha.pruning.configurations import RECORD, pretrained_in
from mha.values.errors import LostHeadsWarning
from tests.mha.support.language_models import GPT, GROUPED, IDS, SIZES, alike, build, first, logits

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

WIDE = {**GROUPED, "head_dim": 10}  # not the quotient of the width and the heads
CAN_SAY = {"llama": GROUPED, "mistral": WIDE, "qwen2": GROUPED, "qwen3": WIDE, "gemma": WIDE, "phi3": GROUPED}


# Counts


@pytest.mark.parametrize("model_type", CAN_SAY)
def test_where_the_configuration_can_say_it_a_plain_round_trip_is_the_same(model_type, tmp_path):
    model = build(model_type, **CAN_SAY[model_type])
    pruned = mha.prune(model, alike(model))
    assert (pruned.config.num_attention_heads, pruned.config.num_key_value_heads) == (3, 1)
    pruned.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(logits(loaded), logits(pruned), rtol=0, atol=1e-5)  # Gemma's width is a float32 buffer
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (6, 2)
    assert not hasattr(model.config, RECORD)


@pytest.mark.filterwarnings("ignore:Reading global")
def test_nothing_false_is_said():
    """A count that a class would divide the width by, that its checks refuse, or that makes other biases."""
    gpt = mha.prune(model := build("gpt2", **GPT), alike(model))
    assert gpt.config.n_head == 6
    refusing = mha.prune(
        model := build("llama", **{**GROUPED, "num_key_value_heads": 6}), alike(model, (0, 1, 2, 3, 4))
    )
    assert (refusing.config.num_attention_heads, refusing.config.num_key_value_heads) == (6, 5)  # 84 / 5 is no width
    refusing.config.validate()
    biases = mha.prune(model := build("bloom", hidden_size=84, n_layer=2, n_head=6, vocab_size=97), alike(model))
    assert biases.config.n_head == 6
    bert = mha.prune(model := build("bert", "AutoModel", **SIZES, num_attention_heads=6), alike(model))
    assert bert.config.num_attention_heads == 6
    sizes = {"d_model": 42, "num_layers": 2, "num_heads": 6, "d_kv": 7, "d_ff": 17, "vocab_size": 97}
    t5 = mha.prune(model := build("t5", "AutoModelForSeq2SeqLM", **sizes), alike(model))
    assert (t5.config.num_heads, t5.config.num_attention_heads) == (6, 6)


def test_a_plain_loader_fails_where_the_configuration_cannot_say_it(tmp_path):
    for place, (model_type, sizes, heads) in enumerate(
        [("llama", GROUPED, (0, 1, 2)), ("llama", GROUPED, ()), ("gpt2", GPT, (1,))]
    ):
        model = build(model_type, **sizes)
        mha.prune(model, first(model, heads)).save_pretrained(tmp_path / str(place))
        with pytest.raises(RuntimeError, match=r"per-layer attribute|raising an error"):
            transformers.AutoModelForCausalLM.from_pretrained(tmp_path / str(place))


@pytest.mark.parametrize("inplace", [False, True])
def test_pruning_on_starts_from_what_the_configuration_said_first(inplace):
    model = build("llama", **GROUPED)
    held = model.config
    config = mha.prune(model, alike(model), inplace=inplace).config
    assert held.to_dict() == build("llama", **GROUPED).config.to_dict()
    assert config.num_attention_heads == 3
    once = model if inplace else mha.prune(model, alike(model))
    twice = mha.prune(once, first(model, (4,)))
    assert (twice.config.num_attention_heads, twice.config.num_key_value_heads) == (6, 1)
    thrice = mha.prune(twice, alike(model, (4,)))
    assert (thrice.config.num_attention_heads, thrice.config.num_key_value_heads) == (1, 1)
    assert thrice.config.mha_pruned["plan"] == {name: list(heads) for name, heads in mha.plan_of(thrice).keep.items()}
    assert once.config.num_attention_heads == 3


def test_what_was_loaded_plainly_is_whole_and_its_heads_are_numbered_anew(tmp_path):
    model = build("llama", **GROUPED)
    mha.prune(model, alike(model)).save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    again = mha.prune(loaded, first(loaded, (0, 2)))
    assert (again.config.num_attention_heads, again.config.num_key_value_heads) == (3, 1)
    assert again.config.mha_pruned["attention"]["model.layers.0.self_attn"] == {"heads": 3, "groups": 1}


def test_models_that_share_a_configuration_do_not_share_what_was_pruned():
    config = transformers.LlamaConfig(**GROUPED)
    one, other = (transformers.LlamaForCausalLM(config) for _ in range(2))
    mha.prune(one, alike(one), inplace=True)
    assert one.config.num_attention_heads == one.model.config.num_attention_heads == 3
    assert one.model.layers[0].self_attn.config is one.model.rotary_emb.config is one.config
    assert other.config is config
    assert config.num_attention_heads == 6


def test_layers_that_read_their_configuration_while_they_run_keep_views_of_it():
    model = build("phi3", **GROUPED)
    pruned = mha.prune(mha.prune(model, first(model, (0, 1, 2))), alike(model, (0, 1, 2)))
    assert all(layer.core.config.whole is pruned.config for layer in mha.find_attention(pruned).values())
    assert mha.check(model, mha.plan_of(pruned), (IDS,)) < 1e-10
    uneven = mha.prune(model, first(model, (0, 1, 2)))
    assert mha.check(uneven, alike(model, (0, 1, 2)), (IDS,)) < 1e-10


def test_a_model_inside_another_has_its_own_record():
    class Judge(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reader = build("llama", **GROUPED)
            self.head = torch.nn.Linear(97, 2)

    pruned = mha.prune(judge := Judge(), first(judge, (0, 1, 2)))
    assert [prefix for prefix, _ in pretrained_in(pruned)] == ["reader."]
    assert pruned.reader.config.mha_pruned["plan"] == {"model.layers.0.self_attn": [0, 1, 2]}


# Caches


def generated(model, **options) -> torch.Tensor:
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "disable_compile": True, **options}
    return model.generate(IDS, **options)


@pytest.mark.parametrize(("model_type", "sizes"), [("llama", GROUPED), ("gpt2", GPT)])
@pytest.mark.parametrize("heads", [(3, 4, 5), (1, 5), (2,)], ids=str)
@pytest.mark.parametrize("every", [True, False], ids=["every layer", "the first layer"])
def test_a_static_cache_that_is_made_before_it_is_used(model_type, sizes, heads, every):
    model = build(model_type, **sizes)
    pruned = mha.prune(model, alike(model, heads) if every else first(model, heads))
    expected = generated(pruned)
    assert torch.equal(generated(pruned, cache_implementation="static"), expected)
    assert torch.equal(generated(pruned, cache_implementation="static", prefill_chunk_size=3), expected)


def continuously(model, **options) -> list[list[int]]:
    generation = transformers.GenerationConfig(
        max_new_tokens=5, do_sample=False, eos_token_id=-1, pad_token_id=0, **options
    )
    small = transformers.generation.ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
    results = model.generate_batch(
        IDS.tolist(), generation_config=generation, continuous_batching_config=small, progress_bar=False
    )
    return [result.generated_tokens for result in results.values()]


@pytest.mark.filterwarnings("ignore")  # transformers' own, of a machine without psutil
@pytest.mark.parametrize("heads", [(3, 4, 5), (1, 5)], ids=str)
def test_continuous_batching_where_all_layers_cache_as_many_heads(heads):
    model = build("llama", **GROUPED)
    pruned = mha.prune(model, alike(model, heads))
    assert continuously(pruned) == [generated(pruned)[0, IDS.shape[1] :].tolist()]


@pytest.mark.filterwarnings("ignore")
def test_continuous_batching_is_refused_where_they_differ():
    model = build("llama", **GROUPED)
    with pytest.raises(RuntimeError, match="'num_key_value_heads' is a per-layer attribute"):
        continuously(mha.prune(model, first(model, (3, 4, 5))))


# Heads that are named

WHISPER = {
    "d_model": 30,
    "vocab_size": 97,
    "num_mel_bins": 11,
    "max_source_positions": 50,
    "max_target_positions": 29,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
    "eos_token_id": 96,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 2), ("ffn_dim", 17))},
    **{f"{side}_attention_heads": 5 for side in ("encoder", "decoder")},
}
NAMED = [[0, 1], [0, 4], [1, 0], [1, 3]]
CROSS = "model.decoder.layers.{}.encoder_attn"


@pytest.fixture
def whisper():
    config = transformers.WhisperConfig(**WHISPER, attn_implementation="eager")
    torch.manual_seed(1)
    model = transformers.WhisperForConditionalGeneration(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.alignment_heads = copy.deepcopy(NAMED)
    return model


def times(model, heads=None) -> torch.Tensor:
    """Of each token, in seconds."""
    sound = torch.randn(1, 11, 100, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    tokens = torch.tensor([[1, 5, 7, 3, 11, 13]])
    with torch.no_grad():
        output = model(sound, decoder_input_ids=tokens, output_attentions=True)
    made = transformers.utils.ModelOutput(sequences=tokens, cross_attentions=[output.cross_attentions])
    return model._extract_token_timestamps(made, heads or model.generation_config.alignment_heads, num_input_ids=1)


PLAN = HeadPlan({CROSS.format(0): (0, 2, 4), CROSS.format(1): (0, 2, 3, 4), "model.decoder.layers.0.self_attn": (1,)})


@pytest.mark.parametrize("inplace", [False, True])
def test_the_times_of_words_are_read_from_the_same_heads(whisper, inplace):
    dense = copy.deepcopy(whisper)
    with mha.masked(dense, PLAN):  # it returns the weights of the heads that are left
        wrong = times(dense, [[0, 1], [1, 0], [1, 3]])
        expected = times(dense, [[0, 2], [1, 0], [1, 2]])
    assert not torch.equal(wrong, expected)
    held = whisper.generation_config
    pruned = mha.prune(whisper, PLAN, inplace=inplace)
    assert held.alignment_heads == NAMED
    assert pruned.generation_config.alignment_heads == [[0, 2], [1, 0], [1, 2]]
    torch.testing.assert_close(times(pruned), expected, rtol=0, atol=1e-9)


def test_named_heads_are_found_again_when_pruned_twice(whisper):
    twice = mha.prune(
        mha.prune(whisper, HeadPlan({CROSS.format(0): (0, 2, 3, 4), CROSS.format(1): (0, 2, 3, 4)})), PLAN
    )
    assert twice.generation_config.alignment_heads == mha.prune(whisper, PLAN).generation_config.alignment_heads


def test_a_layer_without_heads_names_none(whisper):
    pruned = mha.prune(whisper, HeadPlan({CROSS.format(0): ()}))
    assert pruned.generation_config.alignment_heads == [[1, 0], [1, 3]]
    assert torch.equal(times(pruned), times(pruned, [[1, 0], [1, 3]]))


def test_where_none_of_them_is_left_it_is_said(whisper):
    with pytest.warns(LostHeadsWarning, match="every head that generation_config.alignment_heads named has been prun"):
        pruned = mha.prune(whisper, HeadPlan({CROSS.format(0): (0,), CROSS.format(1): (1,)}))
    with pytest.raises(ValueError, match="no `alignment_heads`, token-level timestamps not available"):
        pruned.generate(torch.zeros(1, 11, 100, dtype=torch.float64), return_token_timestamps=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mha.prune(pruned, HeadPlan({"model.encoder.layers.0.self_attn": (0,)}))


def test_named_heads_come_back_from_a_checkpoint(whisper, tmp_path):
    pruned = mha.prune(whisper, PLAN)
    mha.save_pruned(pruned, tmp_path)
    for loaded in (mha.load_pruned(tmp_path), mha.load_pruned(tmp_path, whisper)):
        assert loaded.generation_config.alignment_heads == [[0, 2], [1, 0], [1, 2]]
        assert torch.equal(times(loaded), times(pruned))
    again = tmp_path / "again"
    mha.save_pruned(mha.load_pruned(tmp_path), again)
    assert mha.load_pruned(again).generation_config.alignment_heads == [[0, 2], [1, 0], [1, 2]]
