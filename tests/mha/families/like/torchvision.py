"""Attention in windows that reads like torchvision's: a function that is handed weights, and relative biases."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def shifted_window_attention(
    input,
    qkv_weight,
    proj_weight,
    relative_position_bias,
    window_size,
    num_heads,
    qkv_bias,
    proj_bias,
    logit_scale=None,
):
    B, H, W, C = input.shape
    p, r = window_size
    x = rearrange(input, "b (h p) (w r) c -> (b h w) (p r) c", p=p, r=r)
    qkv = F.linear(x, qkv_weight, qkv_bias)
    qkv = qkv.reshape(x.size(0), x.size(1), 3, num_heads, C // num_heads).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    if logit_scale is None:
        q = q * (C // num_heads) ** -0.5
    else:
        q, k = F.normalize(q, dim=-1) * logit_scale.exp(), F.normalize(k, dim=-1)
    attn = (q.matmul(k.transpose(-2, -1)) + relative_position_bias).softmax(dim=-1)
    x = attn.matmul(v).transpose(1, 2).reshape(x.size(0), x.size(1), C)
    x = F.linear(x, proj_weight, proj_bias)
    return rearrange(x, "(b h w) (p r) c -> b (h p) (w r) c", b=B, h=H // p, w=W // r, p=p)


class ShiftedWindowAttention(nn.Module):
    def __init__(self, dim: int, window_size: list[int], num_heads: int) -> None:
        super().__init__()
        self.window_size, self.num_heads = window_size, num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.define_relative_position_bias_table()
        tokens = window_size[0] * window_size[1]
        self.register_buffer("relative_position_index", torch.arange(tokens**2) % 5)

    def define_relative_position_bias_table(self) -> None:
        self.relative_position_bias_table = nn.Parameter(torch.zeros(5, self.num_heads))

    def get_relative_position_bias(self) -> Tensor:
        tokens = self.window_size[0] * self.window_size[1]
        table = self.relative_position_bias_table[self.relative_position_index]
        return rearrange(table, "(q k) h -> 1 h q k", q=tokens)

    def forward(self, x: Tensor) -> Tensor:
        relative_position_bias = self.get_relative_position_bias()
        return shifted_window_attention(
            x,
            self.qkv.weight,
            self.proj.weight,
            relative_position_bias,
            self.window_size,
            self.num_heads,
            qkv_bias=self.qkv.bias,
            proj_bias=self.proj.bias,
        )


class ShiftedWindowAttentionV2(ShiftedWindowAttention):
    def __init__(self, dim: int, window_size: list[int], num_heads: int) -> None:
        super().__init__(dim, window_size, num_heads)
        self.logit_scale = nn.Parameter(torch.zeros(num_heads, 1, 1))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 11), nn.ReLU(), nn.Linear(11, num_heads, bias=False))

    def define_relative_position_bias_table(self) -> None:
        self.register_buffer("relative_coords_table", torch.linspace(-1, 1, 10).reshape(1, 5, 1, 2))

    def get_relative_position_bias(self) -> Tensor:
        tokens = self.window_size[0] * self.window_size[1]
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)[self.relative_position_index]
        return 16 * rearrange(table, "(q k) h -> 1 h q k", q=tokens).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        relative_position_bias = self.get_relative_position_bias()
        return shifted_window_attention(
            x,
            self.qkv.weight,
            self.proj.weight,
            relative_position_bias,
            self.window_size,
            self.num_heads,
            qkv_bias=self.qkv.bias,
            proj_bias=self.proj.bias,
            logit_scale=self.logit_scale,
        )


class RelativePositionalMultiHeadAttention(nn.Module):
    def __init__(self, feat_dim: int, head_dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.n_heads, self.head_dim, self.max_seq_len = feat_dim // head_dim, head_dim, max_seq_len
        self.to_qkv, self.merge = nn.Linear(feat_dim, 3 * feat_dim), nn.Linear(feat_dim, feat_dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(5, self.n_heads))
        self.register_buffer("relative_position_index", torch.arange(max_seq_len**2) % 5)

    def forward(self, x: Tensor) -> Tensor:
        B, G, P, D = x.shape
        H, DH = self.n_heads, self.head_dim
        q, k, v = (part.reshape(B, G, P, H, DH).permute(0, 1, 3, 2, 4) for part in self.to_qkv(x).chunk(3, dim=-1))
        bias = self.relative_position_bias_table[self.relative_position_index].view(P, P, -1).permute(2, 0, 1)
        out = (torch.einsum("b g h i d, b g h j d -> b g h i j", q, k) + bias).softmax(dim=-1) @ v
        out = out.permute(0, 1, 3, 2, 4).reshape(B, G, P, D)
        return self.merge(out)
