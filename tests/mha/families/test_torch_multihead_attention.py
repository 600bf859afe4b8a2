"""`torch.nn.MultiheadAttention` and what torch builds around it: against torch itself, masked and sliced."""

import copy
import itertools

import pytest
import torch
from torch import nn

import mha
from mha import HeadPlan
from mha.pruning.masking import gated

BATCH, QUERIES, KEYS, HEADS, WIDTH = 2, 3, 5, 7, 11
EMBED = HEADS * WIDTH


def attention(**options) -> nn.MultiheadAttention:
    torch.manual_seed(1)
    layer = nn.MultiheadAttention(EMBED, HEADS, dropout=0.25, **options).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return layer


def inputs(layer: nn.MultiheadAttention):
    parts = [
        torch.randn(BATCH, length, width, dtype=torch.float64)
        for length, width in ((QUERIES, EMBED), (KEYS, layer.kdim), (KEYS, layer.vdim))
    ]
    return parts if layer.batch_first else [part.transpose(0, 1) for part in parts]


LAYERS = {
    "packed": {},
    "packed-no-bias": {"bias": False},
    "separate": {"kdim": 13, "vdim": 17},
    "separate-no-bias": {"kdim": 13, "vdim": 17, "bias": False},
    "bias-kv": {"add_bias_kv": True},
    "zero-attn": {"add_zero_attn": True},
    "everything": {"kdim": 13, "vdim": 17, "add_bias_kv": True, "add_zero_attn": True},
}
PADDING = torch.tensor([[False, False, True, False, True], [False, True, True, True, True]])
PER_HEAD = torch.rand(BATCH * HEADS, QUERIES, KEYS, generator=torch.Generator().manual_seed(5)) > 0.6
PER_HEAD[..., 0] = False  # torch gives NaN where a row has every key masked
CALLS = {
    "plain": {},
    "no-weights": {"need_weights": False},
    "per-head-weights": {"average_attn_weights": False},
    "padding": {"key_padding_mask": PADDING},
    "padding-no-weights": {"key_padding_mask": PADDING, "need_weights": False},
    "mask": {"attn_mask": PER_HEAD[0]},
    "mask-per-head": {"attn_mask": PER_HEAD, "average_attn_weights": False},
    "masks": {"attn_mask": PER_HEAD, "key_padding_mask": PADDING, "need_weights": False},
    "float-mask": {"attn_mask": torch.randn(QUERIES, KEYS, dtype=torch.float64)},
    "float-masks": {
        "attn_mask": PER_HEAD.double() * -3,
        "key_padding_mask": PADDING.double() * -2,
    },
    "causal": {"attn_mask": torch.ones(QUERIES, KEYS, dtype=torch.bool).triu(1), "is_causal": True},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch-first", "sequence-first"])
@pytest.mark.parametrize("options", LAYERS)
def test_with_all_heads_it_is_torch_and_sliced_it_is_masked(options, batch_first, call):
    layer = attention(batch_first=batch_first, **LAYERS[options])
    args = inputs(layer)
    whole = mha.prune(layer, HeadPlan({"": range(HEADS)}))
    for ours, theirs in zip(whole(*args, **CALLS[call]), layer(*args, **CALLS[call]), strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert mha.check(layer, HeadPlan({"": (1, 2, 6)}), args, CALLS[call]) < 1e-10
    assert mha.check(layer, HeadPlan({"": ()}), args, CALLS[call]) < 1e-10


def test_sliced_is_torch_with_zeroed_columns():
    """An oracle that shares no code with ours: torch, its output columns of the cut heads zeroed."""
    layer = attention(batch_first=True)
    args = inputs(layer)
    zeroed = copy.deepcopy(layer)
    for head in (0, 3, 4, 5):
        zeroed.out_proj.weight.data[:, head * WIDTH : (head + 1) * WIDTH] = 0
    sliced = mha.prune(layer, HeadPlan({"": (1, 2, 6)}))
    torch.testing.assert_close(sliced(*args)[0], zeroed(*args)[0], rtol=0, atol=1e-12)
    per_head = zeroed(*args, average_attn_weights=False)[1]
    torch.testing.assert_close(sliced(*args, average_attn_weights=False)[1], per_head[:, [1, 2, 6]], rtol=0, atol=1e-12)
    torch.testing.assert_close(sliced(*args)[1], per_head[:, [1, 2, 6]].mean(dim=1), rtol=0, atol=1e-12)


def test_unbatched_inputs():
    layer = attention(add_bias_kv=True)
    args = torch.randn(QUERIES, EMBED).double(), torch.randn(KEYS, EMBED).double(), torch.randn(KEYS, EMBED).double()
    whole = mha.prune(layer, HeadPlan({"": range(HEADS)}))
    for call in ({}, {"key_padding_mask": PADDING[0]}, {"need_weights": False}, {"attn_mask": PER_HEAD[:HEADS]}):
        for ours, theirs in zip(whole(*args, **call), layer(*args, **call), strict=True):
            assert ours is theirs is None or torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_module_keeps_its_kind_and_parameter_names():
    layer = attention(kdim=13, vdim=17, add_bias_kv=True)
    sliced = mha.prune(layer, HeadPlan({"": (1, 2, 6)}))
    assert isinstance(sliced, nn.MultiheadAttention)
    assert sliced.state_dict().keys() == layer.state_dict().keys()
    assert {name: tuple(value.shape) for name, value in sliced.state_dict().items()} == {
        "q_proj_weight": (33, 77),
        "k_proj_weight": (33, 13),
        "v_proj_weight": (33, 17),
        "in_proj_bias": (99,),
        "bias_k": (1, 1, 33),
        "bias_v": (1, 1, 33),
        "out_proj.weight": (77, 33),
        "out_proj.bias": (77,),
    }
    assert (sliced.num_heads, sliced.head_dim, sliced.out_proj.in_features) == (3, 11, 33)
    assert type(layer) is nn.MultiheadAttention
    assert mha.plan_of(sliced) == HeadPlan({"": (1, 2, 6)})


def test_masks_for_the_heads_still_here_or_for_all():
    layer = attention(batch_first=True)
    args = inputs(layer)
    sliced = mha.prune(layer, HeadPlan({"": (1, 2, 6)}))
    ours = PER_HEAD.unflatten(0, (BATCH, HEADS))[:, [1, 2, 6]].flatten(0, 1)
    for with_all, with_ours in zip(sliced(*args, attn_mask=PER_HEAD), sliced(*args, attn_mask=ours), strict=True):
        assert torch.equal(with_all, with_ours)
    with pytest.raises(mha.MhaError, match=r"\(6, query, key\) for the 3 heads still here, or \(14, query, key\)"):
        sliced(*args, attn_mask=PER_HEAD[:5])


def test_a_row_with_every_key_masked_has_zero_context():
    layer = attention(batch_first=True)
    sliced = mha.prune(layer, HeadPlan({"": (1, 2)}))
    for need_weights in (True, False):
        nothing = torch.ones(BATCH, KEYS, dtype=torch.bool)
        output, _ = sliced(*inputs(layer), key_padding_mask=nothing, need_weights=need_weights)
        torch.testing.assert_close(output, layer.out_proj.bias.expand_as(output), rtol=0, atol=1e-12)


def test_masked_leaves_the_module_what_it_was():
    layer = attention()
    args = inputs(layer)
    before = layer(*args)
    with mha.masked(layer, HeadPlan({"": (0,)})):
        assert not torch.equal(layer(*args)[0], before[0])
    assert type(layer) is nn.MultiheadAttention
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(layer(*args), before, strict=True))


def test_gates_reach_torchs_attention():
    layer = attention(batch_first=True)
    args = inputs(layer)
    gates = torch.rand(HEADS, dtype=torch.float64)
    with gated(mha.find_attention(layer), {"": gates}):
        output = layer(*args)[0]
    layer.out_proj.weight.data *= gates.repeat_interleave(WIDTH)
    torch.testing.assert_close(output, layer(*args)[0], rtol=0, atol=1e-12)


def drawn(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.double()


LENGTHS = torch.tensor([3, 5])
PADDED = torch.arange(5) >= LENGTHS[:, None]
NESTED = "ignore:The PyTorch API of nested tensors:UserWarning"


@pytest.mark.filterwarnings(NESTED)
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("heads", [(0, 3), (1,), ()], ids=["even", "odd", "none"])
def test_encoder_with_padding_uses_no_fused_kernel_and_agrees(heads, norm_first):
    """Even numbers of heads are the trap: torch's fused kernel would take them, and read past the sliced weights."""
    layer = nn.TransformerEncoderLayer(28, 4, 13, batch_first=True, norm_first=norm_first)
    encoder = drawn(nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)).eval()
    plan = HeadPlan({"layers.0.self_attn": heads, "layers.1.self_attn": (0, 1, 2, 3)})
    x = torch.randn(2, 5, 28, dtype=torch.float64)
    with torch.no_grad():
        for kwargs in ({}, {"src_key_padding_mask": PADDED}, {"mask": torch.ones(5, 5, dtype=torch.bool).triu(1)}):
            assert mha.check(encoder, plan, (x,), kwargs) < 1e-10
        dense = copy.deepcopy(encoder)
        off = [head for head in range(4) if head not in heads]
        for head in off:
            dense.layers[0].self_attn.out_proj.weight.data[:, 7 * head : 7 * head + 7] = 0
        expected, got = (one(x, src_key_padding_mask=PADDED) for one in (dense, mha.prune(encoder, plan)))
    torch.testing.assert_close(got[~PADDED], expected[~PADDED], rtol=0, atol=1e-10)


@pytest.mark.filterwarnings(NESTED)
def test_nested_tensors():
    layer = drawn(nn.TransformerEncoderLayer(28, 4, 13, batch_first=True)).eval()
    rows = [torch.randn(n, 28, dtype=torch.float64) for n in (3, 5)]
    sliced = mha.prune(layer, HeadPlan({"self_attn": (0, 2)}))
    with torch.no_grad():
        together = sliced(torch.nested.nested_tensor(rows))
        for row, output in zip(rows, together.unbind(), strict=True):
            torch.testing.assert_close(output, sliced(row.unsqueeze(0))[0], rtol=0, atol=1e-10)


def test_decoder_and_transformer_in_train_and_eval():
    model = drawn(nn.Transformer(28, 4, 1, 1, 13, dropout=0.0, batch_first=True))
    plan = HeadPlan(
        {
            "encoder.layers.0.self_attn": (1, 3),
            "decoder.layers.0.self_attn": (0,),
            "decoder.layers.0.multihead_attn": (0, 1, 2),
        }
    )
    assert list(mha.find_attention(model)) == list(plan.keep)
    src, tgt = torch.randn(2, 5, 28, dtype=torch.float64), torch.randn(2, 3, 28, dtype=torch.float64)
    causal = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)
    call = {"tgt_mask": causal, "tgt_is_causal": True}
    assert mha.check(model, plan, (src, tgt), call) < 1e-10
    sliced = mha.prune(model, plan)
    trained = sliced(src, tgt, **call)
    trained.sum().backward()
    assert all(parameter.grad is not None for parameter in sliced.parameters())
    torch.testing.assert_close(trained, sliced.eval()(src, tgt, **call), rtol=0, atol=1e-10)


def test_dropout_acts_in_training_only():
    layer = attention(batch_first=True)
    sliced = mha.prune(layer, HeadPlan({"": (1, 2)}))
    args = inputs(layer)
    for need_weights, training in itertools.product((True, False), repeat=2):
        sliced.train(training)
        first, second = (sliced(*args, need_weights=need_weights)[0] for _ in range(2))
        assert torch.equal(first, second) is not training


def test_every_criterion_scores_it():
    encoder = drawn(nn.TransformerEncoder(nn.TransformerEncoderLayer(28, 4, 13, batch_first=True), 1)).eval()
    batches = [torch.randn(3, 5, 28, dtype=torch.float64)]
    for criterion in mha.criteria():
        scores = mha.score(encoder, batches, lambda model, x: model(x).square().mean(), criterion)
        assert scores.scores["layers.0.self_attn"].shape == (4,)


def test_causal_hint_without_weights():
    """torch takes the hint for the whole mask here, and so hides the extra key of `add_bias_kv`; we never do."""
    layer = attention(add_bias_kv=True)
    args, call = inputs(layer), CALLS["causal"]
    whole = mha.prune(layer, HeadPlan({"": range(HEADS)}))
    expected = layer(*args, **call)[0]
    torch.testing.assert_close(whole(*args, **call, need_weights=False)[0], expected, rtol=0, atol=1e-12)
    with pytest.raises(mha.MhaError, match="is_causal says that attn_mask is causal: give attn_mask too"):
        whole(*args, is_causal=True)


class Exported(nn.Module):
    """Attention with padding and weights, as it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(28, 4, batch_first=True)

    def forward(self, x: torch.Tensor, ignored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.attention(x, x, x, key_padding_mask=ignored)


def padded_inputs(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(batch, length, 28, generator=torch.Generator().manual_seed(batch), dtype=torch.float64)
    return x, torch.arange(length) >= torch.arange(batch)[:, None] + 2


@pytest.mark.parametrize("heads", [(0, 3), (1,), ()], ids=["even", "odd", "none"])
def test_it_is_exported_for_any_batch_and_length(heads):
    pruned = mha.prune(drawn(Exported()).eval(), HeadPlan({"attention": heads}))
    any_size = {0: torch.export.Dim("b"), 1: torch.export.Dim("n")}
    program = torch.export.export(pruned, padded_inputs(3, 5), dynamic_shapes=(any_size, any_size))
    given = padded_inputs(7, 11)
    for got, expected in zip(program.module()(*given), pruned(*given), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("heads", [(0, 3), ()], ids=["some", "none"])
def test_it_can_be_scripted(heads):
    pruned = mha.prune(drawn(Exported()).eval(), HeadPlan({"attention": heads}))
    scripted = torch.jit.script(pruned)
    given = padded_inputs(7, 11)
    for got, expected in zip(scripted(*given), pruned(*given), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
