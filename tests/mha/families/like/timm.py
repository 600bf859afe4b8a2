"""Attention in the ways of timm's XCiT, CaiT, Twins, PVT v2, Hiera and LeViT."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class XCA(nn.Module):
    """Channels attend to channels."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 4, 1)
        q, k, v = qkv.unbind(0)
        attn = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        x = (attn.softmax(dim=-1) @ v).permute(0, 3, 1, 2).reshape(B, N, C)
        x = self.proj(x)
        return x


class ClassAttn(nn.Module):
    """The first token attends to all."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q = self.q(x[:, 0]).unsqueeze(1).reshape(B, 1, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)
        k = self.k(x).reshape(B, N, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)
        v = self.v(x).reshape(B, N, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)
        x_cls = F.scaled_dot_product_attention(q, k, v)
        x_cls = x_cls.transpose(1, 2).reshape(B, 1, C)
        x_cls = self.proj(x_cls)
        return x_cls


class GlobalSubSampleAttn(nn.Module):
    """All tokens attend to those of a smaller image."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int = 2) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(0.1)
        self.sr, self.norm = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio), nn.LayerNorm(dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        B, N, C = x.shape
        q = self.q(x).reshape(B, N, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)
        x = x.permute(0, 2, 1).reshape(B, C, *size)
        x = self.sr(x).reshape(B, C, -1).permute(0, 2, 1)
        x = self.norm(x)
        kv = self.kv(x).reshape(B, -1, 2, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        k, v = kv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(B, N, C)
        x = self.proj(x)
        x = self.proj_drop(x)
        return x


class MixedKeys(GlobalSubSampleAttn):
    """Keys that are made of what heads have computed."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        B, N, C = x.shape
        q = self.q(x).reshape(B, N, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)
        x = q.transpose(1, 2).flatten(2)
        kv = self.kv(x).reshape(B, -1, 2, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        k, v = kv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(B, N, C)
        x = self.proj(x)
        x = self.proj_drop(x)
        return x


class MaskUnitAttention(nn.Module):
    """Queries are pooled, so fewer tokens come out than go in."""

    def __init__(self, dim: int, dim_out: int, heads: int, q_stride: int) -> None:
        super().__init__()
        self.dim_out, self.heads, self.q_stride, self.head_dim = dim_out, heads, q_stride, dim_out // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim_out), nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.q_stride > 1:
            q = q.view(B, self.heads, self.q_stride, -1, self.head_dim).amax(dim=2)
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(B, -1, self.dim_out)
        x = self.proj(x)
        return x


class LinearNorm(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear, self.bn = nn.Linear(in_features, out_features, bias=False), nn.BatchNorm1d(out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return self.bn(x.flatten(0, 1)).reshape_as(x)


class Every(nn.Module):
    """Every second token."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2]


class LevitAttention(nn.Module):
    """Keys narrower than values, norms after the linears, and biases that are remembered once they are computed."""

    def __init__(self, dim: int, key_dim: int, val_dim: int, num_heads: int, tokens: int) -> None:
        super().__init__()
        self.use_conv, self.num_heads, self.key_dim, self.val_dim = False, num_heads, key_dim, val_dim
        self.key_attn_dim, self.val_attn_dim = key_dim * num_heads, val_dim * num_heads
        self.qkv = LinearNorm(dim, self.val_attn_dim + 2 * self.key_attn_dim)
        self.proj = nn.Sequential()
        self.proj.add_module("act", nn.SiLU())
        self.proj.add_module("ln", LinearNorm(self.val_attn_dim, dim))
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, tokens))
        self.register_buffer("attention_bias_idxs", torch.arange(tokens**2).reshape(tokens, tokens) % tokens)
        self.attention_bias_cache: dict[str, Tensor] = {}

    def get_attention_biases(self, device: torch.device) -> Tensor:
        if str(device) not in self.attention_bias_cache:
            self.attention_bias_cache[str(device)] = self.attention_biases[:, self.attention_bias_idxs].detach()
        return self.attention_bias_cache[str(device)]

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = self.qkv(x).view(
            B, N, self.num_heads, -1).split([self.key_dim, self.key_dim, self.val_dim], dim=3)  # fmt: skip
        q, k, v = q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1), v.permute(0, 2, 1, 3)
        attn = q @ k * self.key_dim**-0.5 + self.get_attention_biases(x.device)
        attn = attn.softmax(dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(B, N, self.val_attn_dim)
        x = self.proj(x)
        return x


class AttentionDownsample(LevitAttention):
    def __init__(self, dim: int, key_dim: int, val_dim: int, num_heads: int, tokens: int) -> None:
        super().__init__(dim, key_dim, val_dim, num_heads, tokens)
        del self.qkv
        self.kv, self.q = LinearNorm(dim, self.val_attn_dim + self.key_attn_dim), nn.Sequential()
        self.q.add_module("down", Every())
        self.q.add_module("ln", LinearNorm(dim, self.key_attn_dim))
        self.attention_bias_idxs = self.attention_bias_idxs[::2]

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        k, v = self.kv(x).view(B, N, self.num_heads, -1).split([self.key_dim, self.val_dim], dim=3)
        k, v = k.permute(0, 2, 3, 1), v.permute(0, 2, 1, 3)
        q = self.q(x).view(B, -1, self.num_heads, self.key_dim).permute(0, 2, 1, 3)
        attn = q @ k * self.key_dim**-0.5 + self.get_attention_biases(x.device)
        attn = attn.softmax(dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(B, -1, self.val_attn_dim)
        x = self.proj(x)
        return x
