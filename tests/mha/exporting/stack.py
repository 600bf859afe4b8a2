"""A small model of three layers, one of which has lost all of its heads, and what it is called with."""

from typing import NamedTuple

from torch import nn

import mha

B, S, E, H, G, D = 3, 7, 20, 6, 3, 4


class Stack(nn.Module):
    """Our layer three times, with grouped heads, each adding to its input; `lens` says what is padding."""

    def __init__(self) -> None:
        super().__init__()
        layers = [mha.MultiHeadAttention.square(E, H, bias=True, head_dim=D, num_kv_heads=G) for _ in range(3)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x, lens=None, *, scale=1.0):
        for layer in self.layers:
            x = x + scale * layer(x, x, x, lens)
        return {"hidden": x, "mean": x.mean(dim=1)}


PLAN = mha.HeadPlan({"layers.0": (0, 1, 4, 5), "layers.1": (), "layers.2": (2, 3)})


class Case(NamedTuple):
    """A dense model, a plan, and an example."""

    model: nn.Module
    plan: mha.HeadPlan
    example: tuple

    @property
    def pruned(self) -> nn.Module:
        return mha.prune(self.model, self.plan)
