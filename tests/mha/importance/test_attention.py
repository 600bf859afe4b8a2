"""Confidence and entropy against the attention weights that models return themselves."""

import itertools
import math

import pytest
import torch
from torch import nn

import mha
from tests.mha.support.losses import output_error
from tests.mha.support.models import Windows
from tests.mha.support.transformers_models import GROUPED, PRUNABLE, build

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

LENGTHS = (11, 5, 1)


def expected(weights, rows):
    """Confidence and entropy per head, by loops, from weights (b, h, q, k) and the rows that count per example."""
    confidence, entropy = [], []
    for one, count in zip(weights, rows, strict=True):
        sure = [row.max(dim=-1).values for row in one[:, count].unbind(1)]
        focus = []
        for row in one[:, count].unbind(1):
            keys = int((row > 0).any(dim=0).sum())
            if keys > 1:
                focus.append(1 + torch.special.xlogy(row, row).sum(-1) / math.log(keys))
        confidence.append(torch.stack(sure).mean(dim=0))
        entropy += [torch.stack(focus).mean(dim=0)] if focus else []
    return torch.stack(confidence).mean(dim=0), torch.stack(entropy).mean(dim=0)


def assert_scores(model, batch, loss, weights):
    """weights: layer name -> (weights, rows). transformers' own are of a softmax in single precision."""
    rtol, atol = (1e-9, 1e-12) if isinstance(model, mha.MultiHeadAttention | nn.MultiheadAttention) else (1e-5, 1e-6)
    found = [mha.score(model, [batch], loss, criterion) for criterion in ("confidence", "entropy")]
    for name, (own, rows) in weights.items():
        for scores, values in zip(found, expected(own.double(), rows), strict=True):
            torch.testing.assert_close(scores.scores[name], values, rtol=rtol, atol=atol)
    assert all(set(scores.scores) == set(weights) for scores in found)
    return found


def padded(lengths=LENGTHS):
    """Token ids (3, 11) padded on the right, and their mask."""
    ids = torch.randint(3, 97, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids, mask


def loss_of_hidden(model, batch):
    return model(**batch).last_hidden_state.square().mean()


MODEL_TYPES = ("bert", "llama", "gpt2", "gpt_neox", "modernbert", "deepseek_v3")


@pytest.mark.parametrize(
    ("model_type", "implementation"),
    [*itertools.product(MODEL_TYPES, ["eager", "sdpa"]), ("gpt_oss", "eager")],  # sinks, which sdpa does not know
)
def test_weights_are_those_that_transformers_returns(model_type, implementation):
    model = build(model_type, PRUNABLE[model_type])
    ids, mask = padded()
    batch = {"input_ids": ids, "attention_mask": mask}
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(**batch, output_attentions=True).attentions
    model.set_attn_implementation(implementation)
    layers = mha.find_attention(model)
    rows = [torch.arange(length) for length in LENGTHS]
    found = assert_scores(
        model, batch, loss_of_hidden, {name: (own, rows) for name, own in zip(layers, weights, strict=True)}
    )
    assert [scores.examples for scores in found] == [3, None]  # no row of the last example sees two keys


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_weights_of_t5_with_its_bias_and_cross_attention(implementation):
    model = build("t5", PRUNABLE["t5"])
    ids, mask = padded()
    batch = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids}
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**batch, output_attentions=True)
    model.set_attn_implementation(implementation)
    real, every = [torch.arange(length) for length in LENGTHS], [torch.arange(11)] * 3
    weights = {}
    for block in range(2):
        weights[f"encoder.block.{block}.layer.0.SelfAttention"] = output.encoder_attentions[block], real
        weights[f"decoder.block.{block}.layer.0.SelfAttention"] = output.decoder_attentions[block], every
        weights[f"decoder.block.{block}.layer.1.EncDecAttention"] = output.cross_attentions[block], every
    assert_scores(model, batch, loss_of_hidden, weights)


def test_rows_that_see_no_key_do_not_count():
    """Padding on the left of a causal model: the first rows see nothing."""
    model = build("llama", GROUPED).float()
    ids, mask = padded((11, 5, 3))
    ids, mask = ids.flip(1), mask.flip(1)
    model.set_attn_implementation("eager")
    batch = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        weights = model(**batch, output_attentions=True).attentions
    rows = [torch.arange(11 - length, 11) for length in (11, 5, 3)]
    named = dict(zip(mha.find_attention(model), ((own, rows) for own in weights), strict=True))
    assert_scores(model, batch, loss_of_hidden, named)
    model.set_attn_implementation("sdpa")
    assert_scores(model, batch, loss_of_hidden, named)


def test_rows_that_see_no_key_do_not_count_in_fused_attention_either():
    torch.manual_seed(0)
    layer = mha.MultiHeadAttention.square(23, 5, head_dim=3).double().eval()
    x = torch.randn(3, 11, 23, dtype=torch.float64)
    seen = torch.arange(11) >= 11 - torch.tensor((11, 5, 3))[:, None]
    mask = seen[:, None, None, :] & torch.ones(11, 11, dtype=torch.bool).tril()
    weights = layer(x, x, x, attn_mask=mask, need_weights=True)[1]
    rows = [torch.arange(11 - length, 11) for length in (11, 5, 3)]
    assert_scores(layer, x, lambda model, x: model(x, x, x, attn_mask=mask).square().mean(), {"": (weights, rows)})


@pytest.mark.parametrize("asks", [False, True], ids=["fused", "need_weights"])
def test_weights_of_our_own_module(asks):
    torch.manual_seed(0)
    layer = mha.MultiHeadAttention.square(23, 10, head_dim=11, num_kv_heads=5).double().eval()
    x, lengths = torch.randn(3, 11, 23, dtype=torch.float64), torch.tensor(LENGTHS)
    weights = layer(x, x, x, lengths, need_weights=True)[1]

    def loss(model, batch):
        output = model(batch, batch, batch, lengths, need_weights=asks)
        return (output[0] if asks else output).square().mean()

    assert_scores(layer, x, loss, {"": (weights, [torch.arange(length) for length in LENGTHS])})


@pytest.mark.parametrize("asks", [False, True], ids=["fused", "need_weights"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_weights_of_torchs_module(asks, batch_first):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(21, 7, batch_first=batch_first, add_bias_kv=True).double().eval()
    x = torch.randn(3, 11, 21, dtype=torch.float64)
    x = x if batch_first else x.transpose(0, 1)
    ignored = torch.arange(11) >= torch.tensor(LENGTHS)[:, None]
    causal = torch.ones(11, 11, dtype=torch.bool).triu(1)
    arguments = {"key_padding_mask": ignored, "attn_mask": causal}
    weights = layer(x, x, x, **arguments, average_attn_weights=False)[1]
    assert_scores(
        layer,
        x,
        lambda model, batch: model(batch, batch, batch, **arguments, need_weights=asks)[0].square().mean(),
        {"": (weights, [torch.arange(length) for length in LENGTHS])},
    )


def test_weights_in_cross_attention_of_equal_lengths_count_every_query():
    torch.manual_seed(0)
    layer = mha.MultiHeadAttention(13, 23, 13, 23, 5, head_dim=3).double().eval()
    x, memory = torch.randn(3, 11, 23, dtype=torch.float64), torch.randn(3, 11, 13, dtype=torch.float64)
    lengths = torch.tensor(LENGTHS)
    weights = layer(x, memory, memory, lengths, need_weights=True)[1]
    assert_scores(
        layer, x, lambda model, x: model(x, memory, memory, lengths).square().mean(), {"": (weights, [range(11)] * 3)}
    )


def test_windows_count_alike_and_examples_are_counted_by_the_batch():
    """Four windows of three positions in each of five examples."""
    torch.manual_seed(0)
    model, x = Windows().double(), torch.randn(5, 12, 6, dtype=torch.float64)
    windows = x.unflatten(1, (-1, 3)).flatten(0, 1)
    weights = model.attention(windows, windows, windows, need_weights=True)[1]
    scores = mha.score(model, [x[:2], x[2:]], output_error, "confidence")
    torch.testing.assert_close(scores.scores["attention"], weights.amax(-1).mean((0, 2)).detach())
    assert scores.examples == 5


def test_many_queries_are_seen_a_few_at_a_time(monkeypatch):
    from mha.importance.running import attention_weights

    model = build("llama", GROUPED)
    batch = dict(zip(("input_ids", "attention_mask"), padded(), strict=True))
    whole = mha.score(model, [batch], loss_of_hidden, "entropy")
    monkeypatch.setattr(attention_weights, "CHUNK", 3 * 6 * 11 * 4)  # four queries
    parts = mha.score(model, [batch], loss_of_hidden, "entropy")
    for name, row in whole.scores.items():
        torch.testing.assert_close(parts.scores[name], row, rtol=1e-12, atol=1e-14)


def test_a_kernel_that_has_no_weights_is_refused_by_name():
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = mha.MultiHeadAttention.square(6, 3)
            self.attention.forward = lambda x: self.attention.W_o(self.attention.W_v(x))

        def forward(self, x):
            return self.attention(x)

    model, x = Silent(), torch.randn(2, 5, 6)
    with pytest.raises(mha.MhaError, match=r"layer 'attention': MultiHeadAttention computed no attention weights that"):
        mha.score(model, [x], lambda model, x: model(x).square().mean(), "entropy")
    model.attention.forward = lambda x: model.attention.W_o(x.expand(2, 3, 5, 6).softmax(-1).softmax(-1)[:, 0])
    with pytest.raises(mha.MhaError, match=r"layer 'attention': MultiHeadAttention computes 2 softmaxes that may be"):
        mha.score(model, [x], lambda model, x: model(x[:, None]).square().mean(), "entropy")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_sequence_of_one_key_has_no_entropy(model, batches, loss):
    short = [tuple(part[:, :1] if part.dim() > 1 else part for part in batch) for batch in batches]
    with pytest.raises(
        mha.MhaError, match=r"no row of their attention weights counts; are all keys masked, or all seq"
    ):
        mha.score(model, short, loss, "entropy")
    assert all((row == 1).all() for row in mha.score(model, short, loss, "confidence").scores.values())


def test_entropy_is_0_for_a_head_that_looks_at_all_keys_alike_and_1_for_one_that_looks_at_one():
    layer = mha.MultiHeadAttention.square(2, 2, head_dim=1).double()
    layer.W_q.weight.data = torch.tensor([[0.0, 0.0], [1e4, 0.0]]).double()
    layer.W_k.weight.data = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).double()
    x = torch.stack([torch.ones(7), torch.arange(7)], dim=1)[None].double() / 7
    scores = mha.score(layer, [x], lambda model, x: model(x, x, x).square().mean(), "entropy").scores[""]
    torch.testing.assert_close(scores, torch.tensor([0.0, 1.0]).double(), rtol=0, atol=1e-12)
    scores = mha.score(layer, [x], lambda model, x: model(x, x, x).square().mean(), "confidence").scores[""]
    torch.testing.assert_close(scores, torch.tensor([1 / 7, 1.0], dtype=torch.float64), rtol=0, atol=1e-12)
