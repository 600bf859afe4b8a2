"""Batches whose padding is not computed: the same numbers at the real positions, and zero elsewhere."""

from typing import NamedTuple
from unittest import mock

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mha
from mha.layer.packing import Group, Packing, Ragged, attend_packed, clear
from mha.layer.varlen import has_kernel
from mha.values.errors import ShapeError

B, Q, K, H, D, E = 5, 7, 11, 3, 13, 17
QUERY_LENS, KEY_LENS = torch.tensor([7, 2, 0, 5, 1]), torch.tensor([3, 11, 4, 0, 1])
EXACT = {"rtol": 0, "atol": 1e-12}


def make_layer(num_heads=H, **options):
    torch.manual_seed(0)
    return mha.MultiHeadAttention.square(E, num_heads, head_dim=D, bias=True, **options).double().eval()


def make_input(length=Q):
    return torch.randn(B, length, E, generator=torch.Generator().manual_seed(length), dtype=torch.float64)


def only_real(output, lengths, dim=1):
    """The same by loops, which share no code with what is tested."""
    kept = torch.zeros_like(output)
    for index, length in enumerate(lengths.tolist()):
        rows = (index, *(slice(None),) * (dim - 1), slice(length))
        kept[rows] = output[rows]
    return kept


def test_packing_lays_real_positions_end_to_end_and_back():
    x, lengths, order = make_input(), QUERY_LENS.tolist(), [2, 4, 1, 3, 0]
    ragged = Ragged(lengths, order, Q, x.device)
    packed = ragged.pack(x)
    assert packed.equal(torch.cat([x[example, : lengths[example]] for example in order]))
    assert ragged.unpack(packed).equal(only_real(x, QUERY_LENS))


def test_clearing_is_by_position_along_any_dimension():
    x, weights = make_input(), torch.rand(B, H, Q, K)
    assert clear(x, QUERY_LENS).equal(only_real(x, QUERY_LENS))
    assert clear(weights, QUERY_LENS, dim=2).equal(only_real(weights, QUERY_LENS, dim=2))


def test_examples_of_equal_lengths_stand_together():
    query_lens, key_lens = torch.tensor([3, 9, -1, 3, 7]), torch.tensor([2, 5, 2, 2, 99])
    packing = Packing(query_lens, key_lens, Q, K, torch.device("cpu"))
    assert packing.groups == [(1, 0, 2), (2, 3, 2), (1, 7, 5), (1, 7, 11)]
    x, y = make_input(), make_input(K)
    assert packing.queries.pack(x).equal(torch.cat([x[0, :3], x[3, :3], x[1], x[4]]))
    assert packing.keys.pack(y).equal(torch.cat([y[2, :2], y[0, :2], y[3, :2], y[1, :5], y[4]]))


def test_packed_attention_is_that_of_each_example_alone():
    groups = [Group(2, 3, 2), Group(1, 4, 5), Group(1, 0, 1), Group(1, 2, 0)]
    q, k, v = (torch.randn(n, H, D, dtype=torch.float64) for n in (12, 10, 10))
    found = attend_packed(q, k, v, groups)
    spans = [((0, 3), (0, 2)), ((3, 6), (2, 4)), ((6, 10), (4, 9))]
    for rows, keys in spans:
        for head in range(H):
            a, b, c = q[slice(*rows), head], k[slice(*keys), head], v[slice(*keys), head]
            alone = (a @ b.T / D**0.5).softmax(-1) @ c
            torch.testing.assert_close(found[slice(*rows), head * D : (head + 1) * D], alone, **EXACT)
    assert found[10:].eq(0).all()


@pytest.mark.parametrize("heads", [{}, {"num_heads": 6, "num_kv_heads": 2}], ids=["plain", "grouped"])
@pytest.mark.parametrize("valid_lens", [None, KEY_LENS, torch.arange(B * Q).reshape(B, Q) % 6], ids=["all", "b", "bq"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_real_queries_get_what_they_get_without_packing(heads, valid_lens, masked, is_causal, need_weights):
    layer, queries, keys = make_layer(**heads), make_input(), make_input(K)
    mask = torch.rand(B, 1, Q, K, generator=torch.Generator().manual_seed(3)) < 0.7 if masked else None
    options = {"attn_mask": mask, "is_causal": is_causal, "need_weights": need_weights}
    whole = layer(queries, keys, keys, valid_lens, **options)
    found = layer(queries, keys, keys, valid_lens, query_lens=QUERY_LENS, **options)
    pairs = zip(found, whole, (1, 2), strict=True) if need_weights else [(found, whole, 1)]
    for one, other, dim in pairs:
        torch.testing.assert_close(one, only_real(other, QUERY_LENS, dim), **EXACT)


def test_self_attention_over_a_padded_batch_reads_the_batch_once():
    layer, x = make_layer(), make_input()
    found = layer(x, x, x, QUERY_LENS, query_lens=QUERY_LENS)
    torch.testing.assert_close(found, only_real(layer(x, x, x, QUERY_LENS), QUERY_LENS), **EXACT)


def test_what_stands_in_the_padding_can_not_be_felt():
    layer, x = make_layer(), make_input()
    dirty = x.clone()
    dirty[only_real(torch.ones_like(x), QUERY_LENS) == 0] = float("nan")
    found = layer(dirty, dirty, dirty, QUERY_LENS, query_lens=QUERY_LENS)
    assert found.equal(layer(x, x, x, QUERY_LENS, query_lens=QUERY_LENS))


def test_padding_is_not_computed():
    layer, x = make_layer(), make_input()
    counted = []
    for query_lens in (None, QUERY_LENS):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            layer(x, x, x, QUERY_LENS, query_lens=query_lens)
        counted.append(counter.get_flop_counts()["Global"][torch.ops.aten.addmm])
    assert counted == [4 * 2 * E * H * D * tokens for tokens in (B * Q, int(QUERY_LENS.sum()))]


def test_gradients_are_those_of_the_real_positions():
    layer, x = make_layer(), make_input().requires_grad_()
    wanted = torch.autograd.grad(
        only_real(layer(x, x, x, QUERY_LENS), QUERY_LENS).square().sum(), [x, *layer.parameters()]
    )
    found = torch.autograd.grad(
        layer(x, x, x, QUERY_LENS, query_lens=QUERY_LENS).square().sum(), [x, *layer.parameters()]
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("lengths", [torch.zeros(B, dtype=torch.long), torch.full((B,), Q)], ids=["none", "all"])
@pytest.mark.parametrize("heads", [(), (0, 2), (0, 1, 2)])
def test_nothing_real_and_everything_real_also_pruned(lengths, heads):
    layer, x = mha.prune(make_layer(), mha.HeadPlan({"": heads})), make_input()
    found = layer(x, x, x, lengths, query_lens=lengths)
    torch.testing.assert_close(found, only_real(layer(x, x, x, lengths), lengths), **EXACT)


def test_dropout_acts_on_packed_tokens_in_training_only():
    layer, x = make_layer(dropout=0.5), make_input()
    calm = [layer(x, x, x, QUERY_LENS, query_lens=QUERY_LENS) for _ in range(2)]
    layer.train()
    wild = [layer(x, x, x, QUERY_LENS, query_lens=QUERY_LENS) for _ in range(2)]
    assert calm[0].equal(calm[1])
    assert not wild[0].equal(wild[1])


@pytest.mark.parametrize("shape", [(), (B, 1), (B, Q), (B + 1,)])
def test_query_lens_of_another_shape_are_refused(shape):
    layer, x = make_layer(), make_input()
    with pytest.raises(ShapeError, match=rf"query_lens: expected shape \({B},\).*got \({', '.join(map(str, shape))}"):
        layer(x, x, x, query_lens=torch.ones(shape, dtype=torch.long))


class Model(nn.Module):
    """A model of two layers, with packing or without."""

    def __init__(self, packing):
        super().__init__()
        self.layers, self.packing = nn.ModuleList([make_layer(), make_layer()]), packing

    def forward(self, x, lengths):
        for layer in self.layers:
            x = x + layer(x, x, x, lengths, query_lens=lengths if self.packing else None)
        return x


def mean_of_real(model, batch):
    x, lengths = batch
    output = only_real(model(x, lengths), lengths)
    return (output.square().sum((1, 2)) / lengths).mean()


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "leave_one_out", "entropy", "gate", "shapley"])
def test_scores_are_those_of_the_examples_not_of_their_tokens(criterion):
    lengths = [torch.tensor([7, 2, 3, 5, 1]), torch.tensor([1, 4, 7, 7, 2])]
    batches = [(make_input() + number, one) for number, one in enumerate(lengths)]
    packed, padded = (mha.score(Model(packing), batches, mean_of_real, criterion) for packing in (True, False))
    if criterion != "entropy":  # of padded queries it would count those that nothing is made of
        for name, scores in packed.scores.items():
            torch.testing.assert_close(scores, padded.scores[name], rtol=1e-9, atol=1e-12)
    assert set(packed.scores) == {"layers.0", "layers.1"}


def test_masked_and_sliced_agree_on_packed_batches():
    batch = make_input(), QUERY_LENS
    plan = mha.HeadPlan({"layers.0": (0, 2), "layers.1": ()})
    assert mha.check(Model(packing=True), plan, batch) <= 1e-12


def varlen_by_loops(q, k, v, starts_q, starts_k, max_q, max_k, *, window_size):
    """What torch's kernel computes, as its documentation has it: the causal mask is aligned bottom-right."""
    assert starts_q.dtype == starts_k.dtype == torch.int32
    assert (max_q, max_k) == (int(starts_q.diff().max()), int(starts_k.diff().max()))
    context = torch.empty_like(q)
    for index in range(len(starts_q) - 1):
        rows, columns = slice(*starts_q[index : index + 2].tolist()), slice(*starts_k[index : index + 2].tolist())
        scores = torch.einsum("qhd,khd->hqk", q[rows], k[columns]) / q.shape[-1] ** 0.5
        if window_size == (-1, 0):
            ahead = torch.ones(scores.shape[1:], dtype=torch.bool).triu(scores.shape[2] - scores.shape[1] + 1)
            scores = scores.masked_fill(ahead, float("-inf"))
        context[rows] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[columns])
    return context


@pytest.mark.parametrize("kv_heads", [6, 2])
@pytest.mark.parametrize(("is_causal", "keys"), [(False, (2, 5, 11)), (True, (3, 4, 7))])
def test_one_kernel_for_all_lengths_computes_what_the_groups_do(monkeypatch, kv_heads, is_causal, keys):
    groups = [Group(2, 3, keys[0]), Group(1, 4, keys[1]), Group(3, 7, keys[2])]
    by_key = sum(group.examples * group.keys for group in groups)
    q = torch.randn(31, 6, D, dtype=torch.float64)
    k, v = (torch.randn(by_key, kv_heads, D, dtype=torch.float64) for _ in range(2))
    expected = attend_packed(q, k, v, groups, is_causal=is_causal)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_by_loops)
    monkeypatch.setattr("mha.layer.packing.has_kernel", mock.Mock(return_value=True))
    torch.testing.assert_close(attend_packed(q, k, v, groups, is_causal=is_causal), expected, **EXACT)


def test_that_kernel_is_for_halves_on_cuda_and_masks_that_both_align_alike():
    class Cuda(NamedTuple):
        dtype: torch.dtype = torch.bfloat16
        shape: tuple[int, ...] = (9, 6, 64)
        is_cuda: bool = True
        device: str = "nowhere"

    def fits(q=Cuda(), queries=(4, 5), keys=(4, 5), is_causal=True, dropout=0.0):  # noqa: B008
        with mock.patch("mha.layer.varlen._has_flash", return_value=True):
            return has_kernel(q, queries, keys, is_causal=is_causal, dropout=dropout)

    assert fits()
    assert fits(keys=(3, 1), is_causal=False)
    assert not fits(keys=(3, 1))
    assert not fits(keys=(4, 0), is_causal=False)
    assert not fits(dropout=0.1)
    assert not fits(queries=(9,), keys=(9,))
    others = Cuda(torch.float32), Cuda(shape=(9, 6, 12)), Cuda(shape=(9, 6, 512)), Cuda(is_cuda=False)
    assert not any(map(fits, others))
