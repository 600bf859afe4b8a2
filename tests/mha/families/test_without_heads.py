"""A layer that keeps no head: the bias of its output, nothing of size 0, and a class that other processes can make."""

import copy
import io
import multiprocessing
import pickle
import warnings

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    Blip2QFormerConfig,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    Olmo2Config,
    Olmo2Model,
    OPTConfig,
    OPTModel,
    T5Config,
    T5EncoderModel,
)
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerAttention

import mha
from mha import HeadPlan
from mha.layer.output_bias import OutputBias
from mha.runtime.generated_classes import making_class
from tests.mha.families.worker import B, N, Ours, ids, put_output, run
from tests.thorough import few


def _llama(kind, config_class):
    return kind(
        config_class(
            vocab_size=17,
            hidden_size=18,
            intermediate_size=11,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=4,
            pad_token_id=0,
        )
    )


MODELS = {
    "ours and torch's": Ours,
    "bert": lambda: BertModel(
        BertConfig(
            vocab_size=17, hidden_size=14, intermediate_size=11, num_hidden_layers=2, num_attention_heads=7
        )
    ),
    "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=17, n_embd=14, n_layer=2, n_head=7, n_positions=13)),
    "opt": lambda: OPTModel(
        OPTConfig(
            vocab_size=17, hidden_size=14, word_embed_proj_dim=14, ffn_dim=11, num_hidden_layers=2,
            num_attention_heads=7, max_position_embeddings=13, pad_token_id=0,
        )
    ),
    "bart": lambda: BartModel(
        BartConfig(
            vocab_size=17, d_model=14, encoder_ffn_dim=11, decoder_ffn_dim=11, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=7, decoder_attention_heads=7, max_position_embeddings=13, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
        )
    ),
    "t5": lambda: T5EncoderModel(
        T5Config(vocab_size=17, d_model=14, d_kv=3, d_ff=11, num_layers=2, num_heads=5, pad_token_id=0)
    ),
    "llama": lambda: _llama(LlamaModel, LlamaConfig),
    "olmo2": lambda: _llama(Olmo2Model, Olmo2Config),
}  # fmt: skip


@pytest.fixture(params=MODELS, scope="module")
def whole(request) -> nn.Module:
    torch.manual_seed(3)
    model = MODELS[request.param]().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(scope="module")
def empty(whole) -> HeadPlan:
    """A plan by which the first layer and the last one keep no head."""
    names = list(mha.find_attention(whole))
    return HeadPlan({names[0]: (), names[-1]: ()})


def test_nothing_is_left_but_the_bias_of_the_output(whole, empty):
    pruned = mha.prune(whole, empty)
    for name in empty.keep:
        layer = mha.find_attention(pruned)[name]
        assert layer.heads == ()
        assert isinstance(layer.output, OutputBias)
        inside = [path for path, _ in layer.core.named_parameters() if "relative_attention_bias" not in path]
        assert len(inside) <= 1  # beside the table from which T5's first layer makes the biases of all layers
        bias = mha.find_attention(whole)[name].output._parameters.get("bias")
        assert (layer.output.bias is None) == (bias is None)
        assert bias is None or torch.equal(layer.output.bias, bias)
    assert all(tensor.numel() for tensor in pruned.state_dict().values())
    assert mha.check(whole, empty, (), {"input_ids": ids()}) < 1e-10
    assert mha.plan_of(pruned) == empty


def test_every_parameter_gets_a_gradient(whole, empty):
    """Parameters before such a layer get one too: DistributedDataParallel waits for all that are trained."""
    dense, pruned = copy.deepcopy(whole), mha.prune(whole, empty)
    for model in (dense, pruned):
        run(model).square().sum().backward()
    trained = {name for name, parameter in dense.named_parameters() if parameter.grad is not None}
    names = {name: name.replace("_without_heads", "") for name, _ in pruned.named_parameters()}
    without = [n for n, p in pruned.named_parameters() if p.grad is None and names[n] in trained]
    assert without == []
    nn.utils.clip_grad_norm_(pruned.parameters(), 1.0, norm_type=float("inf"))


@pytest.mark.parametrize("how", ["pickle", "torch.save", "deepcopy"])
def test_it_can_be_pickled_saved_whole_and_copied(whole, empty, how):
    some = {name: layer.heads[: len(layer.heads) // 2] for name, layer in mha.find_attention(whole).items()}
    pruned = mha.prune(whole, HeadPlan({**some, **empty.keep}))
    if how == "pickle":
        back = pickle.loads(pickle.dumps(pruned))
    elif how == "torch.save":
        file = io.BytesIO()
        torch.save(pruned, file)
        file.seek(0)
        back = torch.load(file, weights_only=False)
    else:
        back = copy.deepcopy(pruned)
    with torch.no_grad():
        assert torch.equal(run(back), run(pruned))
    assert mha.plan_of(back) == mha.plan_of(pruned)
    names = list(mha.find_attention(whole))
    assert mha.plan_of(mha.prune(back, HeadPlan({names[1 % len(names)]: ()}))).keep[names[1 % len(names)]] == ()


@pytest.mark.parametrize("name", few(["ours and torch's", "t5"], "ours and torch's"))  # which imports no transformers
def test_a_spawned_worker_takes_it(name):
    torch.manual_seed(3)
    model = MODELS[name]().double().eval()
    pruned = mha.prune(model, HeadPlan(dict.fromkeys(list(mha.find_attention(model))[:1], ())))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    worker = context.Process(target=put_output, args=(pruned, results))
    worker.start()
    with torch.no_grad():
        assert results.get(timeout=600) == run(pruned).tolist()
    worker.join(timeout=600)
    assert worker.exitcode == 0


def test_dynamic_quantisation_keeps_the_bias():
    """The bias survives, of which torch would make garbage along with a weight without columns."""
    torch.manual_seed(3)
    model = MODELS["bart"]().eval()
    names = list(mha.find_attention(model))
    pruned = mha.prune(model, HeadPlan({names[0]: (), names[-1]: ()}))
    nn.init.normal_(pruned.get_submodule(names[0]).out_proj_without_heads.bias)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that it will move its quantisation elsewhere
        small = torch.ao.quantization.quantize_dynamic(pruned, {nn.Linear}, dtype=torch.qint8)
    layer = small.get_submodule(names[0])
    x = torch.randn(B, N, 14)
    assert torch.equal(layer(x)[0], pruned.get_submodule(names[0]).out_proj_without_heads.bias.expand(B, N, -1))
    assert run(small).isfinite().all()


def test_autocast_gives_the_dtype_that_a_linear_gives():
    bias, context = nn.Parameter(torch.randn(7)), torch.randn(B, N, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = OutputBias(7, bias)(context)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, bias.bfloat16().expand(B, N, 7))


def test_an_optimizer_that_divides_by_sizes_trains_it(whole, empty):
    pruned = mha.prune(whole, empty)
    before = {name: parameter.detach().clone() for name, parameter in pruned.named_parameters()}
    optimizer = torch.optim.Adafactor(pruned.parameters(), lr=0.1)
    run(pruned).square().sum().backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in pruned.parameters())
    assert any(not torch.equal(parameter, before[name]) for name, parameter in pruned.named_parameters())


def test_one_query_for_several_examples():
    """A Q-Former gives one query to several examples; there are as many outputs as examples."""
    torch.manual_seed(3)
    config = Blip2QFormerConfig(hidden_size=14, num_attention_heads=7, encoder_hidden_size=11)
    layer = Blip2QFormerAttention(config, is_cross_attention=True).double().eval()
    queries, keys = torch.randn(1, 3, 14, dtype=torch.float64), torch.randn(4, N, 11, dtype=torch.float64)
    assert mha.check(layer, HeadPlan({"": ()}), (queries,), {"encoder_hidden_states": keys}) < 1e-10


def test_a_class_derived_from_a_generated_one_is_not_taken_for_it():
    """FSDP2 and torch's parametrizations derive such classes: pickle must not give the class below instead."""
    made = making_class(lambda _: ("Smaller", {}))(nn.Linear)
    derived = type("Sharded", (made,), {})
    with pytest.raises((pickle.PicklingError, AttributeError), match="Sharded"):
        pickle.dumps(derived)
