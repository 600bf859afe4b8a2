"""timm's attention: found without importing timm, by what its code says; tested wherever timm can be imported."""

import pytest
import torch
from torch import nn

import mha
from mha import HeadPlan
from mha.pruning import cut

pytest.importorskip("timm", reason="timm is not installed: it needs a torchvision that goes with this torch")

from timm.layers import Attention, AttentionRope, DiffAttention, LayerNorm
from timm.models.beit import Beit
from timm.models.cait import ClassAttn, TalkingHeadAttn
from timm.models.eva import Eva
from timm.models.hiera import Hiera
from timm.models.levit import Attention as LevitAttention
from timm.models.levit import Levit
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.swin_transformer import SwinTransformer
from timm.models.twins import Twins
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import Attention as ImageAttention
from timm.models.xcit import Xcit

from tests.mha.families.proof import prove

SMALL = {"img_size": 12, "patch_size": 4, "embed_dim": 30, "depth": 2, "num_heads": 5, "num_classes": 7}
EVA = {**SMALL, "embed_dim": 40, "use_rot_pos_emb": True, "scale_attn_inner": False}
MODELS = {
    "vit": lambda: VisionTransformer(**SMALL),
    "vit, no biases": lambda: VisionTransformer(**SMALL, qkv_bias=False, proj_bias=False),
    "vit, heads normalised": lambda: VisionTransformer(**SMALL, qk_norm=True),
    "vit, patches dropped": lambda: VisionTransformer(
        **SMALL, patch_drop_rate=0.3, class_token=False, global_pool="avg"
    ),
    "eva": lambda: Eva(**EVA),
    "eva, separate": lambda: Eva(**EVA, qkv_fused=False),
    "eva, angles of each head": lambda: Eva(**EVA, rope_type="mixed"),
    "eva, grouped": lambda: Eva(
        **{**EVA, "embed_dim": 48, "num_heads": 6}, attn_type="rope", num_kv_heads=2, qkv_fused=False
    ),
    "beit": lambda: Beit(**SMALL, use_abs_pos_emb=False, use_rel_pos_bias=True),
    "beit, one bias for all": lambda: Beit(**SMALL, use_shared_rel_pos_bias=True),
    "swin": lambda: SwinTransformer(
        img_size=16, patch_size=2, window_size=4, embed_dim=12, depths=(2, 1), num_heads=(3, 6), num_classes=7
    ),
}


PYRAMID = {"num_classes": 7, "depths": (1, 1), "embed_dims": (12, 20), "num_heads": (3, 5), "mlp_ratios": (2, 2)}
LEVIT = {
    "embed_dim": (20, 24),
    "key_dim": 4,
    "depth": (1, 1),
    "num_heads": (3, 2),
    "attn_ratio": (2, 1.5),
    "mlp_ratio": 2,
}
OTHERS = {
    "xcit": lambda: Xcit(
        img_size=32, patch_size=8, embed_dim=30, depth=2, num_heads=5, cls_attn_layers=1, num_classes=7
    ),
    "cait's class token": lambda: ClassAttn(30, num_heads=5),
    "pvt": lambda: PyramidVisionTransformerV2(**PYRAMID, sr_ratios=(2, 1)),
    "pvt, pooled": lambda: PyramidVisionTransformerV2(**PYRAMID, sr_ratios=(2, 1), linear=True),
    "twins": lambda: Twins(
        img_size=32,
        patch_size=4,
        embed_dims=(12, 20, 12, 12),
        num_heads=(3, 5, 2, 2),
        mlp_ratios=(2, 2, 2, 2),
        depths=(2, 2, 1, 1),
        sr_ratios=(2, 1, 1, 1),
        wss=(3, 2, 2, 2),
        num_classes=7,
    ),
    "hiera": lambda: Hiera(
        img_size=(32, 32),
        embed_dim=12,
        num_heads=3,
        stages=(1, 1, 2),
        q_pool=2,
        patch_kernel=(3, 3),
        patch_stride=(2, 2),
        patch_padding=(1, 1),
        mask_unit_size=(4, 4),
        mask_unit_attn=(True, True, False),
        num_classes=7,
    ),
    "levit": lambda: Levit(img_size=32, **LEVIT, stem_type="s8", num_classes=7),
}


def make(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = MODELS[name]().double().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, float(parameter.std() == 0 and parameter.mean() == 1), 0.2)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("k_bias"):  # zero in EVA, but it goes with its heads all the same
                buffer.normal_(0.0, 0.2)
    return model


def images(name: str) -> torch.Tensor:
    size = 16 if name == "swin" else 12
    return torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(8))


@pytest.fixture(params=[True, False], ids=["fused", "step by step"])
def fused(request) -> bool:
    return request.param


@pytest.mark.parametrize("name", MODELS)
def test_sliced_is_masked(name, fused):
    model, x = make(name), images(name)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    layers = mha.find_attention(model)
    assert len(layers) >= 2
    assert layers.unsupported == {}
    per_group = {layer: found.num_heads // found.num_kv_heads for layer, found in layers.items()}
    some = HeadPlan({layer: range(found.num_heads)[-per_group[layer] :] for layer, found in layers.items()})
    first = next(iter(layers))
    for plan in (some, HeadPlan({**some.keep, first: ()}), HeadPlan(dict.fromkeys(layers, ()))):
        assert mha.check(model, plan, (x,), atol=1e-9) < 1e-9
    once = mha.prune(model, HeadPlan({first: range(layers[first].num_heads)[per_group[first] :]}))
    assert mha.check(once, some, (x,), atol=1e-9) < 1e-9
    assert mha.plan_of(mha.prune(once, some)) == some


@pytest.mark.parametrize("name", MODELS)
def test_the_comparison_can_fail(name, monkeypatch):
    model, x = make(name), images(name)
    first, layer = next(iter(mha.find_attention(model).items()))
    honest = cut.kept_indices

    def always_the_first(axis, sizes, heads, groups):
        return honest(axis, sizes, [0] * len(heads), [0] * len(groups))

    monkeypatch.setattr(cut, "kept_indices", always_the_first)
    with pytest.raises(mha.EquivalenceError, match="sliced differs from masked"):
        mha.check(model, HeadPlan({first: (layer.num_heads - 1,)}), (x,), atol=1e-9)


@pytest.mark.parametrize("name", OTHERS)
def test_other_ways_of_attention(name, fused, tmp_path):
    model = OTHERS[name]()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    tokens = name == "cait's class token"
    x = torch.randn(2, 4, 30) if tokens else torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    prove(model, (x.double(),), directory=tmp_path)


def test_rows_are_those_of_the_heads_that_stay():
    attention = Attention(30, num_heads=5, qkv_bias=True)
    pruned = mha.prune(attention, HeadPlan({"": (1, 4)}))
    rows = [part * 30 + head * 6 + i for part in range(3) for head in (1, 4) for i in range(6)]
    assert torch.equal(pruned.qkv.weight, attention.qkv.weight[rows])
    assert torch.equal(pruned.qkv.bias, attention.qkv.bias[rows])
    assert (pruned.num_heads, pruned.head_dim, pruned.attn_dim) == (2, 6, 12)


@pytest.mark.parametrize(
    "arguments", [{"dim_out": 11}, {"attn_head_dim": 7}, {"qk_norm": True, "norm_layer": LayerNorm}]
)
def test_attention_on_its_own(arguments):
    attention = Attention(30, num_heads=5, **arguments).double().eval()
    x, mask = torch.randn(2, 3, 30).double(), torch.rand(2, 5, 3, 3).double()
    for kwargs in ({}, {"is_causal": True}, {"attn_mask": mask}):  # a mask for each head, of all of them
        assert mha.check(attention, HeadPlan({"": (0, 3)}), (x,), kwargs, atol=1e-9) < 1e-9


def test_training_mode_and_gradients():
    pruned = mha.prune(Attention(30, num_heads=5), HeadPlan({"": (1, 4)})).train()
    pruned(torch.randn(2, 3, 30)).sum().backward()
    assert pruned.qkv.weight.grad.shape == (36, 30)
    assert pruned.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        (
            lambda: Attention(30, num_heads=5, scale_norm=True, norm_layer=LayerNorm),
            r"Attention.norm \(LayerNorm\) is not",
        ),
        (lambda: AttentionRope(30, num_heads=5, scale_norm=True, norm_layer=LayerNorm), r"AttentionRope.norm"),
        (lambda: TalkingHeadAttn(30, num_heads=5), r"TalkingHeadAttn.proj_l \(Linear\) is not understood"),
        (lambda: DiffAttention(30, num_heads=5), "couples its heads"),
        (lambda: LevitAttention(30, 3, 5, use_conv=True), "Attention projects by convolutions, not by linears"),
        (lambda: ImageAttention(30, num_heads=5), "Attention is not given a sequence of tokens"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_reason(attention, reason):
    with pytest.raises(mha.UnsupportedModule, match=reason):
        mha.prune(attention(), HeadPlan({"": (0,)}))
