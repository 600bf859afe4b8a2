"""Criteria that look at weights and contexts, against the same by definition."""

import re

import pytest
import torch
from torch import nn

import mha
from mha.importance.running.context import Moments
from tests.mha.support.models import LAYERS

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def contexts(model, batches, loss, names=LAYERS):
    """Layer name -> (positions, heads x width), by hooks of our own."""
    seen = {name: [] for name in names}
    layers = mha.find_attention(model)
    handles = [
        layers[name].output.register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0].detach().flatten(0, -2))
        )
        for name in names
    ]
    with torch.no_grad():
        for batch in batches:
            loss(model, batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def blocks(name):
    heads, width = LAYERS[name]
    return [range(head * width, (head + 1) * width) for head in range(heads)]


def tiny(model_type, **sizes):
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return transformers.AutoModel.from_config(config).double().eval()


def test_magnitude_reads_the_right_axis_of_gpt2():
    """Its projections store the weight as (in, out)."""
    model = tiny("gpt2", n_embd=42, n_layer=1, n_head=7, vocab_size=97, n_positions=32)
    weight = model.h[0].attn.c_proj.weight
    expected = torch.stack([weight[head * 6 : head * 6 + 6].norm() for head in range(7)])
    torch.testing.assert_close(mha.score(model, None, None, "magnitude").scores["h.0.attn"], expected.detach())


def test_magnitude_of_all_four_is_their_product(model):
    scores = mha.score(model, None, None, "magnitude_all").scores
    for name, (heads, width) in LAYERS.items():
        layer = model.get_submodule(name)
        per_group = heads // layer.num_kv_heads
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            shared = slice(head // per_group * width, (head // per_group + 1) * width)
            parts = (
                layer.W_q.weight[own],
                layer.W_k.weight[shared],
                layer.W_v.weight[shared],
                layer.W_o.weight[:, own],
            )
            expected = torch.stack([part.norm() for part in parts]).prod()
            torch.testing.assert_close(scores[name][head], expected.detach())


def test_magnitude_of_all_four_knows_how_fused_weights_lie():
    thirds = tiny("gpt2", n_embd=42, n_layer=1, n_head=7, vocab_size=97, n_positions=32)
    sizes = {"hidden_size": 42, "num_hidden_layers": 1, "num_attention_heads": 7, "intermediate_size": 40}
    beside = tiny("gpt_neox", vocab_size=97, **sizes)
    packed = nn.MultiheadAttention(42, 7).double()
    q, k, v = thirds.h[0].attn.c_attn.weight.T.unflatten(0, (3, 7, 6))
    found = mha.score(thirds, None, None, "magnitude_all").scores["h.0.attn"]
    o = thirds.h[0].attn.c_proj.weight.T
    _assert_product(found, q, k, v, o.unflatten(1, (7, 6)).transpose(0, 1))

    attention = beside.layers[0].attention
    q, k, v = attention.query_key_value.weight.unflatten(0, (7, 3, 6)).transpose(0, 1)
    found = mha.score(beside, None, None, "magnitude_all").scores["layers.0.attention"]
    _assert_product(found, q, k, v, attention.dense.weight.unflatten(1, (7, 6)).transpose(0, 1))

    q, k, v = packed.in_proj_weight.unflatten(0, (3, 7, 6))
    found = mha.score(packed, None, None, "magnitude_all").scores[""]
    _assert_product(found, q, k, v, packed.out_proj.weight.unflatten(1, (7, 6)).transpose(0, 1))


def _assert_product(found, *parts):
    expected = torch.stack([part.flatten(1).norm(dim=1) for part in parts]).prod(dim=0)
    torch.testing.assert_close(found, expected.detach())


def test_moments_are_those_of_all_rows_however_they_stream():
    rows = torch.randn(31, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e6
    for full in (True, False):
        moments = Moments(0, torch.zeros(5).double(), torch.zeros(5, 5).double() if full else torch.zeros(5).double())
        for part in rows.split([7, 0, 1, 23]):
            moments.add(part)
        covariance = moments.scatter / 30
        expected = torch.cov(rows.T)
        torch.testing.assert_close(moments.mean, rows.mean(dim=0))
        torch.testing.assert_close(covariance, expected if full else expected.diagonal(), rtol=1e-6, atol=1e-8)
        assert moments.count == 31


def test_fluctuation_is_variance_times_squared_columns(model, batches, loss):
    scores = mha.score(model, batches, loss, "fluctuation").scores
    standard = mha.score(model, batches, loss, "fluctuation", normalize=True).scores
    for name, x in contexts(model, batches, loss).items():
        columns = x.var(dim=0) * model.get_submodule(name).W_o.weight.square().sum(dim=0)
        expected = torch.stack([columns[list(block)].sum() for block in blocks(name)]).detach()
        torch.testing.assert_close(scores[name], expected)
        torch.testing.assert_close(standard[name], (expected - expected.mean()) / expected.std())


@pytest.mark.parametrize("intercept", [False, True])
def test_least_squares_is_what_solving_again_leaves(model, batches, loss, intercept):
    """Against `torch.linalg.lstsq` on the heads that stay, with a column of ones for the intercept."""
    scores = mha.score(model, batches, loss, "least_squares", damping=0, intercept=intercept).scores
    for name, x in contexts(model, batches, loss).items():
        weight = model.get_submodule(name).W_o.weight.detach().T
        target = x @ weight
        for head, block in enumerate(blocks(name)):
            rest = [column for column in range(x.shape[1]) if column not in block]
            inputs = torch.cat([x[:, rest], torch.ones(len(x), 1).double()], dim=1) if intercept else x[:, rest]
            left = target - inputs @ torch.linalg.lstsq(inputs, target).solution
            expected = 0.5 * left.square().sum() / len(x)
            torch.testing.assert_close(scores[name][head], expected, rtol=1e-6, atol=1e-12)


def test_least_squares_normalized_is_a_share_of_the_layers_output(model, batches, loss):
    raw = mha.score(model, batches, loss, "least_squares", damping=0).scores
    share = mha.score(model, batches, loss, "least_squares", damping=0, normalize=True).scores
    for name, x in contexts(model, batches, loss).items():
        whole = 0.5 * (x @ model.get_submodule(name).W_o.weight.detach().T).square().sum() / len(x)
        torch.testing.assert_close(share[name], raw[name] / whole)


def test_a_singular_gram_matrix_is_damped_and_said(model, batches, loss, caplog):
    few = [tuple(part[:1, :2] if part.dim() > 1 else part[:1] for part in batches[0])]  # two positions
    scores = mha.score(model, few, loss, "least_squares")
    assert re.search(r"singular in 'plain' \(rank 2 of 21 over 2 positions\).*damped by 1e-06", caplog.text)
    assert all(row.isfinite().all() for row in scores.scores.values())
    with pytest.raises(mha.MhaError, match=r"layer 'plain' \(rank 2 of 21.*more calibration data or a damping above 0"):
        mha.score(model, few, loss, "least_squares", damping=0)
    with pytest.raises(mha.MhaError, match=r"damping is a share .* 0 or more; got -1"):
        mha.score(model, few, loss, "least_squares", damping=-1)


def test_heads_whose_context_is_zero_cost_nothing_and_need_no_damping(model, batches, loss, caplog):
    model.plain.W_v.weight.data[3:6] = 0
    model.plain.W_v.bias.data[3:6] = 0
    scores = mha.score(model, batches, loss, "least_squares", damping=0)
    assert caplog.text == ""
    assert scores.scores["plain"][1] == 0
    assert (scores.scores["plain"][[0, 2, 3, 4, 5, 6]] > 0).all()
