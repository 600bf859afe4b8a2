"""A small model of three layers, one of which has lost all of its heads, and what it is called with."""

from typing import NamedTuple

import pytest
import torch
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


@pytest.fixture(scope="session")
def case():
    torch.manual_seed(0)
    model = Stack().eval()
    x = torch.randn(B, S, E, generator=torch.Generator().manual_seed(1))
    return Case(model, PLAN, ((x,), {"lens": torch.tensor([7, 3, 5]), "scale": 0.5}))


@pytest.fixture(scope="session")
def exported(case, tmp_path_factory):
    """The pruned model as a traced program of torch; tests that change it copy the directory."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    return mha.export(case.pruned, "torch", tmp_path_factory.mktemp("export") / "torch", example=case.example)
