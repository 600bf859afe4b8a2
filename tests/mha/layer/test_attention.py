"""MultiHeadAttention against three implementations that share no code with it, in float64."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from mha.layer.attention import MultiHeadAttention, attention_weights
from mha.values.errors import ShapeError
from mha.values.plan import Lineage, set_lineage

B, Q, K, H, D = 2, 5, 7, 3, 11
KEY_SIZE, QUERY_SIZE, VALUE_SIZE, NUM_HIDDENS = 13, 17, 19, 23
EXACT = {"rtol": 0, "atol": 1e-12}


def make_layer(num_heads=H, *, head_dim=D, bias=True, **options):
    torch.manual_seed(0)
    sizes = KEY_SIZE, QUERY_SIZE, VALUE_SIZE, NUM_HIDDENS
    return MultiHeadAttention(*sizes, num_heads, bias=bias, head_dim=head_dim, **options).double()


def make_inputs(num_queries=Q, num_keys=K, widths=(QUERY_SIZE, KEY_SIZE, VALUE_SIZE), dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    lengths = num_queries, num_keys, num_keys
    shapes = zip(lengths, widths, strict=True)
    return [
        torch.randn(B, length, width, generator=generator, dtype=torch.float64).to(dtype) for length, width in shapes
    ]


def random_mask(*shape):
    """A boolean mask, True = attend, in which every query sees key 0."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(2)) < 0.6
    mask[..., 0] = True
    return mask


def by_hand(layer, queries, keys, values, visible=None, added=None):
    """Output and weights by loops over examples, heads and queries, in numpy.

    `visible` and `added` broadcast to (b, h, q, k); query head `i` reads key/value head `i // group`.
    """
    linears = {name: [None if p is None else p.detach().numpy() for p in (linear.weight, linear.bias)]
               for name, linear in layer.named_children()}  # fmt: skip
    project = {name: (lambda x, w=w, c=c: x @ w.T + (0 if c is None else c)) for name, (w, c) in linears.items()}
    heads, width, group = layer.num_heads, layer.head_dim, layer.num_heads // layer.num_kv_heads
    shape = len(queries), heads, queries.shape[1], keys.shape[1]
    visible = np.broadcast_to(True if visible is None else visible, shape)
    added = np.broadcast_to(0.0 if added is None else added, shape)
    weights, output = np.zeros(shape), np.zeros((*queries.shape[:2], layer.W_o.out_features))
    for b in range(len(queries)):
        q, k, v = (project[n](x[b].numpy()) for n, x in (("W_q", queries), ("W_k", keys), ("W_v", values)))
        for i in range(queries.shape[1]):
            context = np.zeros(heads * width)
            for h in range(heads):
                own, shared = slice(h * width, (h + 1) * width), slice(h // group * width, (h // group + 1) * width)
                seen = [j for j in range(keys.shape[1]) if visible[b, h, i, j] and added[b, h, i, j] > -math.inf]
                scores = [q[i, own] @ k[j, shared] / math.sqrt(width) + added[b, h, i, j] for j in seen]
                total = sum(math.exp(s) for s in scores)
                for j, s in zip(seen, scores, strict=True):
                    weights[b, h, i, j] = math.exp(s) / total
                    context[own] += weights[b, h, i, j] * v[j, shared]
            output[b, i] = project["W_o"](context)
    return torch.from_numpy(output), torch.from_numpy(weights)


def assert_as_by_hand(layer, inputs, *, visible=None, added=None, **options):
    """The fused way, and the way with weights, give what the loops give."""
    expected, expected_weights = by_hand(layer, *inputs, visible=visible, added=added)
    output, weights = layer(*inputs, need_weights=True, **options)
    torch.testing.assert_close(layer(*inputs, **options), expected, **EXACT)
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(weights, expected_weights, **EXACT)


class BookAttention(nn.Module):
    """The module of Dive into Deep Learning, section 11.5, as the book defines it."""

    def __init__(self, key_size, query_size, value_size, num_hiddens, num_heads, bias):
        super().__init__()
        self.num_heads = num_heads
        self.W_q = nn.Linear(query_size, num_hiddens, bias=bias)
        self.W_k = nn.Linear(key_size, num_hiddens, bias=bias)
        self.W_v = nn.Linear(value_size, num_hiddens, bias=bias)
        self.W_o = nn.Linear(num_hiddens, num_hiddens, bias=bias)

    def forward(self, queries, keys, values, valid_lens=None):
        q, k, v = (self.split(x) for x in (self.W_q(queries), self.W_k(keys), self.W_v(values)))
        scores = torch.bmm(q, k.transpose(1, 2)) / math.sqrt(q.shape[-1])
        if valid_lens is not None:
            per_query = valid_lens if valid_lens.dim() == 2 else valid_lens[:, None].expand(-1, queries.shape[1])
            lengths = per_query.repeat_interleave(self.num_heads, dim=0)
            scores[torch.arange(keys.shape[1]) >= lengths[:, :, None]] = -1e6
        self.attention_weights = scores.softmax(dim=-1)
        context = torch.bmm(self.attention_weights, v)
        context = context.reshape(-1, self.num_heads, *context.shape[1:]).permute(0, 2, 1, 3)
        return self.W_o(context.flatten(2))

    def split(self, x):
        x = x.reshape(*x.shape[:2], self.num_heads, -1).permute(0, 2, 1, 3)
        return x.reshape(-1, *x.shape[2:])


LENGTHS_PER_EXAMPLE = torch.tensor([3, 7])
LENGTHS_PER_QUERY = torch.tensor([[1, 2, 3, 5, 7], [7, 6, 4, 2, 1]])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("valid_lens", [None, LENGTHS_PER_EXAMPLE, LENGTHS_PER_QUERY], ids=["all", "(b,)", "(b, q)"])
def test_state_dict_of_the_book_gives_the_output_of_the_book(bias, valid_lens):
    sizes = KEY_SIZE, QUERY_SIZE, VALUE_SIZE, H * D, H
    book = BookAttention(*sizes, bias).double()
    ours = MultiHeadAttention(*sizes, 0.5, bias).double().eval()
    ours.load_state_dict(book.state_dict())
    inputs = make_inputs()
    expected = book(*inputs, valid_lens)
    output, weights = ours(*inputs, valid_lens, need_weights=True)
    torch.testing.assert_close(ours(*inputs, valid_lens), expected, **EXACT)
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(weights.flatten(0, 1), book.attention_weights, **EXACT)


@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_torch_multihead_attention(masked):
    ours = MultiHeadAttention(KEY_SIZE, H * D, VALUE_SIZE, H * D, H, bias=True).double()
    torchs = nn.MultiheadAttention(H * D, H, kdim=KEY_SIZE, vdim=VALUE_SIZE, batch_first=True).double()
    with torch.no_grad():
        torchs.in_proj_bias.normal_()
        torchs.out_proj.bias.normal_()
    q_bias, k_bias, v_bias = torchs.in_proj_bias.chunk(3)
    ours.load_state_dict(
        {
            "W_q.weight": torchs.q_proj_weight, "W_q.bias": q_bias,
            "W_k.weight": torchs.k_proj_weight, "W_k.bias": k_bias,
            "W_v.weight": torchs.v_proj_weight, "W_v.bias": v_bias,
            "W_o.weight": torchs.out_proj.weight, "W_o.bias": torchs.out_proj.bias,
        }
    )  # fmt: skip
    inputs = make_inputs(widths=(H * D, KEY_SIZE, VALUE_SIZE))
    mask = random_mask(B, H, Q, K) if masked else None
    forbidden = None if mask is None else ~mask.flatten(0, 1)
    expected, expected_weights = torchs(*inputs, attn_mask=forbidden, average_attn_weights=False)
    output, weights = ours(*inputs, attn_mask=mask, need_weights=True)
    torch.testing.assert_close(ours(*inputs, attn_mask=mask), expected, **EXACT)
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(weights, expected_weights, **EXACT)


@pytest.mark.parametrize("bias", [False, True])
def test_agrees_with_loops_at_unequal_widths_and_lengths(bias):
    assert_as_by_hand(make_layer(bias=bias), make_inputs())


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 3), (6, 2), (6, 1), (6, 6)])
def test_grouped_queries_read_their_group(heads, kv_heads):
    layer = make_layer(heads, num_kv_heads=kv_heads)
    assert layer.W_k.out_features == layer.W_v.out_features == kv_heads * D
    assert_as_by_hand(layer, make_inputs(), visible=np.tri(Q, K, dtype=bool), is_causal=True)


def test_grouped_is_whole_attention_with_repeated_heads():
    grouped, whole = make_layer(6, num_kv_heads=2), make_layer(6)
    state = grouped.state_dict()
    for name, tensor in state.items():
        if name.startswith(("W_k", "W_v")):
            state[name] = tensor.unflatten(0, (2, D)).repeat_interleave(3, dim=0).flatten(0, 1)
    whole.load_state_dict(state)
    inputs = make_inputs()
    torch.testing.assert_close(grouped(*inputs), whole(*inputs), **EXACT)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(5, 7), (7, 5), (1, 5), (5, 1), (5, 5)])
def test_causal_mask_is_aligned_top_left(num_queries, num_keys):
    inputs = make_inputs(num_queries, num_keys)
    assert_as_by_hand(make_layer(), inputs, visible=np.tri(num_queries, num_keys, dtype=bool), is_causal=True)


@pytest.mark.parametrize("dims", range(1, 5))
def test_boolean_masks_of_every_shape_that_broadcasts(dims):
    whole = (B, H, Q, K)[4 - dims :]
    for kept in itertools.product([True, False], repeat=dims):
        mask = random_mask(*(size if keep else 1 for size, keep in zip(whole, kept, strict=True)))
        assert_as_by_hand(make_layer(), make_inputs(), visible=mask.numpy(), attn_mask=mask)


@pytest.mark.parametrize("shape", [(K,), (Q, K), (H, Q, K), (H, 1, 1), (B, 1, Q, K), (B, H, Q, K)])
def test_float_masks_are_added_to_the_scores(shape):
    added = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    added[..., -1] = -math.inf if shape[-1] == K else 0.5
    assert_as_by_hand(make_layer(), make_inputs(), added=added.numpy(), attn_mask=added)


def test_float_mask_of_another_dtype():
    added = torch.tensor([0.5, -math.inf, 0.25, 0, 0, 1, -2])
    assert_as_by_hand(make_layer(), make_inputs(), added=added.double().numpy(), attn_mask=added)


@pytest.mark.parametrize("kind", [None, "boolean", "float"])
@pytest.mark.parametrize("valid_lens", [None, LENGTHS_PER_EXAMPLE, LENGTHS_PER_QUERY], ids=["all", "(b,)", "(b, q)"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_masks_combine_by_and(kind, valid_lens, is_causal):
    visible, added, attn_mask = np.ones((B, H, Q, K), dtype=bool), None, None
    if kind is not None:
        attn_mask = random_mask(H, Q, K)
        visible = visible & attn_mask.numpy()
    if kind == "float":
        scores = torch.randn(Q, K, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        added, attn_mask = scores.numpy(), scores.masked_fill(~attn_mask, -math.inf)
    if valid_lens is not None:
        visible = visible & (np.arange(K) < valid_lens.reshape(B, 1, -1, 1).numpy())
    if is_causal:
        visible = visible & np.tri(Q, K, dtype=bool)
    masks = {"valid_lens": valid_lens, "attn_mask": attn_mask, "is_causal": is_causal}
    assert_as_by_hand(make_layer(), make_inputs(), visible=visible, added=added, **masks)


BLIND = {
    "no valid key": {"valid_lens": torch.tensor([0, K])},
    "no valid key for any query": {"valid_lens": torch.tensor([0, K])[:, None].expand(-1, Q)},
    "boolean mask": {"attn_mask": torch.tensor([False, True]).reshape(B, 1, 1, 1)},
    "float mask": {"attn_mask": torch.tensor([-math.inf, 0.0], dtype=torch.float64).reshape(B, 1, 1, 1)},
    "masks that together leave nothing": {
        "valid_lens": torch.tensor([3, K]),
        "attn_mask": torch.stack([torch.arange(K) >= 3, torch.arange(K) >= 0])[:, None, None],
    },
}


@pytest.mark.parametrize("options", BLIND.values(), ids=BLIND)
@pytest.mark.parametrize("need_weights", [False, True])
def test_a_query_that_sees_no_key_has_zero_context_and_finite_gradients(options, need_weights):
    layer, inputs = make_layer(), [x.requires_grad_() for x in make_inputs()]
    output = layer(*inputs, need_weights=need_weights, **options)
    if need_weights:
        output, weights = output
        assert torch.equal(weights[0], torch.zeros(H, Q, K, dtype=torch.float64))
        torch.testing.assert_close(weights[1].sum(-1), torch.ones(H, Q, dtype=torch.float64), **EXACT)
    assert torch.equal(output[0], layer.W_o.bias.expand(Q, -1))
    torch.testing.assert_close(output[1], by_hand(layer, *(x.detach() for x in inputs))[0][1], **EXACT)
    output.square().sum().backward()
    for tensor in (*inputs, *layer.parameters()):
        assert tensor.grad.isfinite().all()
    assert all(torch.equal(x.grad[0], torch.zeros_like(x.grad[0])) for x in inputs)


def test_no_keys_at_all_is_zero_context():
    layer, inputs = make_layer(), make_inputs(num_keys=0)
    output, weights = layer(*inputs, need_weights=True)
    assert weights.shape == (B, H, Q, 0)
    for given in (output, layer(*inputs)):
        assert torch.equal(given, layer.W_o.bias.expand(B, Q, -1))


def test_head_dim_is_independent_of_the_model_width():
    layer = make_layer(head_dim=29)
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    assert shapes == {
        "W_q.weight": (87, QUERY_SIZE), "W_q.bias": (87,),
        "W_k.weight": (87, KEY_SIZE), "W_k.bias": (87,),
        "W_v.weight": (87, VALUE_SIZE), "W_v.bias": (87,),
        "W_o.weight": (NUM_HIDDENS, 87), "W_o.bias": (NUM_HIDDENS,),
    }  # fmt: skip
    assert_as_by_hand(layer, make_inputs())


def test_head_dim_defaults_to_an_equal_share():
    assert MultiHeadAttention(13, 17, 19, 33, 3).head_dim == 11


def test_a_square_layer_has_one_width():
    torch.manual_seed(5)
    square = MultiHeadAttention.square(33, 6, 0.5, True, head_dim=7, num_kv_heads=2)
    torch.manual_seed(5)
    layer = MultiHeadAttention(33, 33, 33, 33, 6, 0.5, True, head_dim=7, num_kv_heads=2)
    assert repr(square) == repr(layer)
    assert square.dropout == 0.5
    assert all(torch.equal(tensor, layer.state_dict()[name]) for name, tensor in square.state_dict().items())
    assert MultiHeadAttention.square(33, 3).head_dim == 11
    assert type(type("Own", (MultiHeadAttention,), {}).square(4, 2)).__name__ == "Own"


@pytest.mark.parametrize("bias", [False, True])
def test_without_heads_only_the_bias_of_the_output_is_left(bias):
    layer, inputs = make_layer(0, bias=bias), make_inputs()
    output, weights = layer(*inputs, need_weights=True)
    expected = (
        layer.W_o_without_heads.bias.expand(B, Q, -1) if bias else torch.zeros(B, Q, NUM_HIDDENS, dtype=torch.float64)
    )
    assert torch.equal(output, expected)
    assert torch.equal(layer(*inputs), expected)
    assert weights.shape == (B, 0, Q, K)


def test_without_heads_the_bias_still_learns_and_the_output_can_be_written_to():
    layer = make_layer(0)
    output = layer(*make_inputs())
    output += 1.0
    output.sum().backward()
    assert torch.equal(layer.W_o_without_heads.bias.grad, torch.full((NUM_HIDDENS,), float(B * Q), dtype=torch.float64))


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout_acts_in_training_only(need_weights):
    layer, inputs = make_layer(dropout=0.5), make_inputs()
    expected, _ = by_hand(layer, *inputs)

    def run():
        output = layer(*inputs, need_weights=need_weights)
        return output[0] if need_weights else output

    layer.eval()
    torch.testing.assert_close(run(), expected, **EXACT)
    layer.train()
    first, second = run(), run()
    assert not torch.equal(first, second)
    assert not torch.allclose(first, expected)


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout_keeps_the_expected_output(need_weights):
    torch.manual_seed(5)
    layer, inputs = make_layer(dropout=0.25).train(), make_inputs()
    expected, _ = by_hand(layer, *inputs)
    many = [x.repeat_interleave(1009, dim=0) for x in inputs]
    output = layer(*many, need_weights=need_weights)
    output = (output[0] if need_weights else output).unflatten(0, (B, -1))
    error = output.std(dim=1) / math.sqrt(1009)
    assert ((output.mean(dim=1) - expected).abs() < 5 * error).all()


def test_weights_are_those_before_dropout():
    layer, inputs = make_layer(dropout=0.5).train(), make_inputs()
    _, weights = layer(*inputs, need_weights=True)
    torch.testing.assert_close(weights, by_hand(layer, *inputs)[1], **EXACT)


KEPT = (0, 3, 4)


@pytest.fixture
def pruned():
    layer = make_layer(len(KEPT))
    set_lineage(layer, Lineage(heads=KEPT, total_heads=5, groups=KEPT, total_groups=5))
    return layer


@pytest.mark.parametrize("shape", [(B, 5, Q, K), (1, 5, 1, K), (5, Q, K), (5, 1, 1)])
def test_a_pruned_layer_takes_a_mask_made_for_all_its_heads(pruned, shape):
    added = torch.randn(shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    assert_as_by_hand(pruned, make_inputs(), added=added[..., KEPT, :, :].numpy(), attn_mask=added)
    visible = added > -0.5
    visible[..., 0] = True
    assert_as_by_hand(pruned, make_inputs(), visible=visible[..., KEPT, :, :].numpy(), attn_mask=visible)


@pytest.mark.parametrize("shape", [(B, 3, Q, K), (3, Q, K), (B, 1, Q, K), (Q, K)])
def test_a_pruned_layer_takes_a_mask_made_for_what_is_left(pruned, shape):
    mask = random_mask(*shape)
    assert_as_by_hand(pruned, make_inputs(), visible=mask.numpy(), attn_mask=mask)


def test_a_pruned_layer_refuses_a_mask_made_for_another_number_of_heads(pruned):
    with pytest.raises(ShapeError, match=r"= \(2, 3, 5, 7\), got \(2, 4, 5, 7\)"):
        pruned(*make_inputs(), attn_mask=random_mask(B, 4, Q, K))


def test_a_copy_of_a_pruned_layer_takes_the_same_masks(pruned):
    mask, inputs = random_mask(B, 5, Q, K), make_inputs()
    assert torch.equal(copy.deepcopy(pruned)(*inputs, attn_mask=mask), pruned(*inputs, attn_mask=mask))


@pytest.mark.parametrize("need_weights", [False, True])
def test_gradients_agree_with_finite_differences(need_weights):
    torch.manual_seed(7)
    layer = MultiHeadAttention(2, 3, 5, 7, 2, bias=True, head_dim=3, num_kv_heads=1).double()
    inputs = [torch.randn(1, n, e, dtype=torch.float64, requires_grad=True) for n, e in ((2, 3), (3, 2), (3, 5))]
    added = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([2])

    def run(queries, keys, values, added, *parameters):
        names = [name for name, _ in layer.named_parameters()]
        arguments = (queries, keys, values, lengths)
        options = {"attn_mask": added, "need_weights": need_weights}
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), arguments, options)

    assert torch.autograd.gradcheck(run, (*inputs, added, *layer.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("need_weights", [False, True])
def test_lower_precision_keeps_its_dtype_and_stays_close(dtype, need_weights):
    layer, inputs = make_layer(6, num_kv_heads=2), make_inputs()
    options = {"valid_lens": LENGTHS_PER_QUERY, "is_causal": True, "attn_mask": torch.zeros(Q, K)}
    expected = layer(*inputs, **options)
    output = layer.to(dtype)(*(x.to(dtype) for x in inputs), need_weights=need_weights, **options)
    output = output[0] if need_weights else output
    assert output.dtype == dtype
    atol = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hiddens": 31}, "num_hiddens=31 is not a multiple of num_heads=3: give head_dim"),
        ({"num_heads": 0}, "not a multiple of num_heads=0: give head_dim"),
        ({"num_heads": -3}, "not a multiple of num_heads=-3"),
        ({"num_heads": -3, "head_dim": 11}, "expected num_heads ≥ 0, .* got -3, -3 and 11"),
        ({"head_dim": 0}, "head_dim ≥ 1, got 3, 3 and 0"),
        ({"num_kv_heads": 2}, "num_heads=3 is not a multiple of num_kv_heads=2"),
        ({"num_kv_heads": 0}, "num_heads=3 is not a multiple of num_kv_heads=0"),
        ({"num_kv_heads": 6}, "num_heads=3 is not a multiple of num_kv_heads=6"),
        ({"num_kv_heads": -1}, "num_kv_heads ≥ 0 .* got 3, -1 and 11"),
        ({"dropout": 1.0}, r"dropout: expected a probability in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout: .* got -0.1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    sizes = {"key_size": 13, "query_size": 17, "value_size": 19, "num_hiddens": 33, "num_heads": 3}
    with pytest.raises(ShapeError, match=message):
        MultiHeadAttention(**(sizes | change))


@pytest.mark.parametrize("which", range(3), ids=["queries", "keys", "values"])
@pytest.mark.parametrize(
    "damage", [lambda x: x[..., 1:], lambda x: x[0], lambda x: x[:1]], ids=["width", "dims", "batch"]
)
def test_inputs_that_do_not_fit_are_refused(which, damage):
    inputs = make_inputs()
    inputs[which] = damage(inputs[which])
    with pytest.raises(ShapeError, match=r"expected queries \(b, q, 17\), keys \(b, k, 13\), values \(b, k, 19\); got"):
        make_layer()(*inputs)


def test_keys_and_values_of_different_lengths_are_refused():
    queries, keys, values = make_inputs()
    with pytest.raises(ShapeError, match=r"got \(2, 5, 17\), \(2, 7, 13\), \(2, 6, 19\)"):
        make_layer()(queries, keys, values[:, 1:])


@pytest.mark.parametrize("shape", [(), (Q,), (B, K), (B, 1), (B, 1, Q)])
def test_valid_lens_of_another_shape_are_refused(shape):
    with pytest.raises(ShapeError, match=r"valid_lens: expected shape \(2,\) or \(2, 5\)"):
        make_layer()(*make_inputs(), valid_lens=torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(Q,), (K, Q), (B, Q, K), (2, B, H, Q, K), (1, B, H, Q, K)])
def test_masks_that_do_not_broadcast_are_refused(shape):
    with pytest.raises(ShapeError, match=r"attn_mask: expected a shape that broadcasts to .* = \(2, 3, 5, 7\), got"):
        make_layer()(*make_inputs(), attn_mask=torch.ones(shape, dtype=torch.bool))


def test_integer_masks_are_refused():
    with pytest.raises(ShapeError, match=r"attn_mask: expected boolean \(True = attend\) or floating, got torch.int64"):
        make_layer()(*make_inputs(), attn_mask=torch.ones(Q, K, dtype=torch.long))


def test_attention_weights_by_arithmetic():
    q = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).reshape(1, 1, 1, 4)
    k = torch.tensor([2 * math.log(2.0), 0.0, 2 * math.log(5.0)], dtype=torch.float64)
    k = torch.nn.functional.pad(k[:, None], (0, 3)).reshape(1, 1, 3, 4)
    expected = torch.tensor([2 / 8, 1 / 8, 5 / 8], dtype=torch.float64).reshape(1, 1, 1, 3)
    torch.testing.assert_close(attention_weights(q, k), expected, **EXACT)


def test_its_printed_form_names_the_heads():
    assert repr(make_layer(6, num_kv_heads=2)).startswith(
        "MultiHeadAttention(\n  num_heads=6, head_dim=11, num_kv_heads=2, dropout=0.0"
    )


def test_in_bfloat16_the_fused_kernel_is_nearer_to_the_truth_than_rounded_scores():
    """The reason why the kernel is kept on a CPU, although a plain softmax is faster there at some lengths."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 5, 131, 64, generator=generator).bfloat16() for _ in range(3))
    exact = nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    fused = nn.functional.scaled_dot_product_attention(q, k, v)
    plain = attention_weights(q, k) @ v
    errors = [float((found.double() - exact).norm() / exact.norm()) for found in (fused, plain)]
    assert errors[0] < 0.7 * errors[1]
