"""Weights of pruned layers at their original places: against a dense model whose heads are silenced by hand."""

from functools import partial

import pytest
import torch

import mha
from mha import HeadPlan
from mha.visualize import restore_heads

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TEXT = {"hidden_size": 24, "num_attention_heads": 6, "intermediate_size": 8, "vocab_size": 23}
SIDES = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 3), ("ffn_dim", 8))}
CONFIGS = {
    "bert": {**TEXT, "num_hidden_layers": 3},
    "llama": {**TEXT, "num_hidden_layers": 3, "num_key_value_heads": 3},
    "bart": {"d_model": 24, "vocab_size": 23, **SIDES, "encoder_attention_heads": 6, "decoder_attention_heads": 6},
    "t5": {"d_model": 24, "d_kv": 4, "num_layers": 3, "num_heads": 6, "d_ff": 8, "vocab_size": 23},
}
IDS = torch.arange(14).view(2, 7)


def make(kind):
    config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModel.from_config(config, attn_implementation="eager").double().eval()


def run(model, kind):
    inputs = {"decoder_input_ids": IDS[:, :5]} if kind in ("bart", "t5") else {}
    with torch.no_grad():
        return model(input_ids=IDS, output_attentions=True, **inputs)


def reference(model, plan, kind, field, names):
    """What the dense model attends to when nobody reads what the other heads say, and zeros for those."""
    hooks = []
    for name, layer in mha.find_attention(model).items():
        silent = [head for head in range(6) if head not in plan.keep.get(name, range(6))]
        hooks.append(layer.output.register_forward_pre_hook(partial(silenced, heads=silent)))
    weights = [entry.clone() for entry in run(model, kind)[field]]
    for hook in hooks:
        hook.remove()
    for name, entry in zip(names, weights, strict=True):
        entry[:, [head for head in range(6) if head not in plan.keep.get(name, range(6))]] = 0.0
    return weights


def silenced(module, args, heads):  # noqa: ARG001
    context = args[0].clone()
    context.unflatten(-1, (6, 4))[..., heads, :] = 0.0
    return (context,)


def same(found, expected):
    assert len(found) == len(expected)
    for mine, its in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_an_unevenly_pruned_model_attends_as_the_silenced_one(kind):
    model = make(kind)
    names = list(mha.find_attention(model))
    plan = HeadPlan({names[0]: (1, 4), names[1]: ()})
    expected = reference(model, plan, kind, "attentions", names)
    pruned = mha.prune(model, plan)
    weights = run(pruned, kind).attentions
    same(restore_heads(pruned, weights), expected)
    same(restore_heads(pruned, weights, names), expected)
    same(restore_heads(pruned, [weights[0], None, weights[2]]), expected)
    same(restore_heads(pruned, [weights[0], weights[2]]), expected)  # nothing at all of a layer without heads
    same([restore_heads(pruned, weights[0], names[0])], expected[:1])
    same([restore_heads(pruned, weights[1], names[1])], expected[1:2])


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_an_encoder_and_a_decoder(kind):
    model = make(kind)
    names = list(mha.find_attention(model))
    keep = {"encoder_attentions": names[:3], "decoder_attentions": names[3::2], "cross_attentions": names[4::2]}
    kept = [(1, 4), (), range(6), (0, 2, 5), (3,), (), (1,), (), (2, 3)]
    plan = HeadPlan(dict(zip(names, kept, strict=True)))
    expected = {field: reference(model, plan, kind, field, those) for field, those in keep.items()}
    pruned = mha.prune(model, plan)
    output = run(pruned, kind)
    for field, those in keep.items():
        same(restore_heads(pruned, output[field]), expected[field])
        same(restore_heads(pruned, output[field], those), expected[field])


def test_layers_that_only_a_name_tells_apart():
    model = make("bart")
    names = list(mha.find_attention(model))
    plan = HeadPlan({name: (place % 5, 5) for place, name in enumerate(names)})
    expected = reference(model, plan, "bart", "cross_attentions", names[4::2])
    pruned = mha.prune(model, plan)
    weights = run(pruned, "bart").cross_attentions
    with pytest.raises(mha.MhaError, match=r"several layers have as many heads.*name them: .*'encoder.layers.\*.self"):
        restore_heads(pruned, weights)
    same(restore_heads(pruned, weights, "decoder.*.encoder_attn"), expected)


def test_our_own_layer_and_what_else_a_head_may_show(model, inputs):
    pruned = mha.prune(model, HeadPlan({"plain": (1, 4), "grouped": (), "cross": (2,)}))
    weights = torch.randn(7, 2, 3, 5, requires_grad=True, dtype=torch.float32)
    restored = restore_heads(pruned, weights, "plain", fill=float("nan"))
    assert (restored.shape, restored.dtype) == ((7, 7, 3, 5), torch.float32)
    assert torch.equal(restored[:, [1, 4]], weights)
    assert restored[:, [0, 2, 3, 5, 6]].isnan().all()
    restored[:, 1].sum().backward()
    assert weights.grad[:, 0].eq(1).all()
    assert restore_heads(pruned, weights[0].detach(), "plain").shape == (7, 3, 5)
    _, memory = inputs
    _, given = pruned.cross(torch.randn(19, 29, 23).double(), memory, memory, need_weights=True)
    assert torch.equal(restore_heads(pruned, given, "cross")[:, 2], given[:, 0])


def test_a_dense_model_keeps_its_weights():
    model = make("bert")
    weights = run(model, "bert").attentions
    same(restore_heads(model, weights), weights)


@pytest.mark.parametrize(
    ("weights", "layers", "message"),
    [
        ([torch.zeros(1, 2, 3, 3)], "layers.9", r"no attention layer is called 'layers.9'; there are \['plain', "),
        (
            torch.zeros(1, 3, 3, 3),
            "plain",
            r"\[\(1, 3, 3, 3\)\] are not of the layers \['plain'\], which have \[2\] heads",
        ),
        ([torch.zeros(1, 9, 3, 3)], None, r"not of this model, whose layers have .*'plain': 2.*'grouped': 0"),
        (torch.zeros(3, 3), "plain", r"\[\(3, 3\)\] are not of the layers \['plain'\]"),
        ([None], "grouped", r"no layer has any, so that nothing tells of how many queries and keys"),
        (
            [torch.zeros(1, 2, 3, 3), None, torch.zeros(1, 1, 3, 5)],
            None,
            r"differ in more than heads, .*give \(b, 0, q",
        ),
        ([], None, r"no layer has any, so that nothing tells"),
    ],
)
def test_weights_that_do_not_belong(model, weights, layers, message):
    pruned = mha.prune(model, HeadPlan({"plain": (1, 4), "grouped": (), "cross": (2,)}))
    with pytest.raises(mha.MhaError, match=message):
        restore_heads(pruned, weights, layers)
