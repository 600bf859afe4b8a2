"""Attention written with einops: small modules that read like vit-pytorch's, and its own where it is installed."""

import importlib

import pytest
import torch
from einops import rearrange
from torch import Tensor, einsum, nn

import mha
from mha import HeadPlan
from tests.mha.families.proof import prove


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def exists(value: object) -> bool:
    return value is not None


class Fused(nn.Module):
    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm, self.attend, self.dropout = nn.LayerNorm(dim), nn.Softmax(dim=-1), nn.Dropout(0.1)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(0.1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """A module of which every line is known."""
        x = self.norm(x)
        qkv = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = map(lambda t: rearrange(t, "b n (h d) -> b h n d", h=self.heads), qkv)  # noqa: C417
        dots = torch.matmul(q, k.transpose(-1, -2)) * self.scale
        if exists(mask):
            mask = rearrange(mask, "b j -> b 1 1 j")
            dots = dots.masked_fill(~mask, -torch.finfo(dots.dtype).max)
        attn = self.attend(dots)
        attn = self.dropout(attn)
        out = torch.matmul(attn, v)
        out = rearrange(out, "b h n d -> b n (h d)")
        return self.to_out(out)


class Cross(nn.Module):
    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.to_q, self.to_kv = nn.Linear(dim, heads * dim_head), nn.Linear(dim, 2 * heads * dim_head)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.heads
        x = self.norm(x)
        context = x if not exists(context) else torch.cat((x, context), dim=1)
        qkv = (self.to_q(x), *self.to_kv(context).chunk(2, dim=-1))
        q, k, v = map(lambda t: rearrange(t, "b n (h d) -> b h n d", h=h), qkv)  # noqa: C417
        sim = einsum("b h i d, b h j d -> b h i j", q, k) * self.scale
        attn = sim.softmax(dim=-1)
        out = einsum("b h i j, b h j d -> b h i d", attn, v)
        out = rearrange(out, "b h n d -> b n (h d)")
        return self.to_out(out)


class Talking(Fused):
    """A module whose heads talk to each other."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = map(lambda t: rearrange(t, "b n (h d) -> b h n d", h=self.heads), (q, k, v))  # noqa: C417
        dots = torch.matmul(q, k.transpose(-1, -2)) * self.scale
        attn = dots.softmax(dim=1)
        out = torch.matmul(attn, v)
        out = rearrange(out, "b h n d -> b n (h d)")
        return self.to_out(out)


def test_one_linear_for_all(tmp_path):
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    prove(Fused(11, 5, 3), (numbers(2, 7, 11),), directory=tmp_path / "unmasked")
    prove(Fused(11, 5, 3), (numbers(2, 7, 11), mask), directory=tmp_path / "masked")


def test_keys_of_another_sequence(tmp_path):
    prove(Cross(11, 5, 3), (numbers(2, 7, 11), numbers(2, 4, 11)), directory=tmp_path)


def test_rows_are_those_of_the_heads_that_stay():
    attention = Fused(11, 5, 3)
    pruned = mha.prune(attention, HeadPlan({"": (1, 4)}))
    rows = [part * 15 + head * 3 + i for part in range(3) for head in (1, 4) for i in range(3)]
    assert torch.equal(pruned.to_qkv.weight, attention.to_qkv.weight[rows])
    assert pruned.heads == 2


def _replaced(name: str, part: nn.Module) -> nn.Module:
    attention = Fused(12, 4, 3)
    setattr(attention, name, part)
    return attention


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        (Talking(11, 5, 3), r"the code of Talking says 'attn = dots.softmax\(dim=1\)', which is not understood"),
        (_replaced("to_out", nn.Identity()), "to_out is a Identity, not a linear"),
        (_replaced("to_out", nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))), "to_out does more than project"),
        (_replaced("attend", nn.Sigmoid()), "attend is a Sigmoid, not a Softmax"),
        (_replaced("attend", nn.Softmax(dim=1)), "attend is not taken over keys"),
        (_replaced("to_qkv", nn.Linear(12, 30)), "are not those of 4 heads"),
        (_replaced("mix", nn.Linear(4, 4)), r"Fused.mix \(Linear\) is not understood"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_reason(attention, reason):
    with pytest.raises(mha.UnsupportedModule, match=reason):
        mha.prune(attention, HeadPlan({"": (0,)}))


def test_words_that_mean_something_else_are_refused(monkeypatch):
    monkeypatch.setitem(Fused.forward.__globals__, "rearrange", lambda *args, **kwargs: (args, kwargs))
    with pytest.raises(mha.UnsupportedModule, match="rearrange in the code of Fused is not that of einops"):
        mha.prune(Fused(11, 5, 3), HeadPlan({"": (0,)}))


@pytest.mark.parametrize(
    "name",
    [
        "vit",
        "simple_vit",
        "cross_vit",
        "local_vit",
        "mp3",
        "na_vit",
        "simple_vit_with_qk_norm",
        "vat",
        "vit_detpool",
        "xcit",
    ],
)
def test_vit_pytorch(name, tmp_path):
    pytest.importorskip("vit_pytorch", reason="vit-pytorch is not installed: it needs torchvision, as timm does")
    library = importlib.import_module(f"vit_pytorch.{name}")
    prove(library.Attention(30, heads=5, dim_head=7), (numbers(2, 7, 30),), directory=tmp_path)
