"""Small models of our attention, their sizes different primes, so that swapped axes can't cancel."""

import torch
from torch import Tensor, nn

import mha
from mha import MultiHeadAttention


class Reader(nn.Module):
    """Self-attention, grouped self-attention, and cross-attention to a memory of another width and length.

    7 heads of width 3; 5 groups of 2 heads of width 11; 3 heads of width 13.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 23)
        self.plain = MultiHeadAttention.square(23, 7, bias=True, head_dim=3)
        self.grouped = MultiHeadAttention.square(23, 10, head_dim=11, num_kv_heads=5)
        self.cross = MultiHeadAttention(17, 23, 17, 23, 3, bias=True, head_dim=13, dropout=0.5)
        self.classify = nn.Linear(23, 2)

    def forward(self, x: Tensor, memory: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = self.embed(x)
        x = x + self.plain(x, x, x, lengths)
        x = x + self.grouped(x, x, x, is_causal=True)
        x = x + self.cross(x, memory, memory)
        return self.classify(x.mean(dim=1))


LAYERS = {"plain": (7, 3), "grouped": (10, 11), "cross": (3, 13)}  # those of `Reader`: heads and their width


def additive(columns, **sizes):
    """A layer whose head i adds `columns[i]` times its input: queries and keys are zero, values the identity."""
    layer = mha.MultiHeadAttention.square(1, len(columns), head_dim=1, **sizes).double()
    for linear in (layer.W_q, layer.W_k):
        nn.init.zeros_(linear.weight)
    nn.init.ones_(layer.W_v.weight)
    layer.W_o.weight.data = torch.tensor([columns], dtype=torch.float64)
    return layer


X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(12, 1, 1)
BATCHES = [X[:7], X[7:]]  # for an `additive` layer


class Windows(nn.Module):
    """Attends within windows of 3 positions, which stand in the first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = mha.MultiHeadAttention.square(6, 3, head_dim=5)

    def forward(self, x):
        windows = x.unflatten(1, (-1, 3)).flatten(0, 1)
        return self.attention(windows, windows, windows).unflatten(0, (len(x), -1)).flatten(1, 2)
