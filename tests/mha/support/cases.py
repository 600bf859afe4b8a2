"""Small models of every kind of family, in float64: two layers of attention, six heads each."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import mha
from mha import HeadPlan


@dataclass
class Case:
    """A model of two layers, six heads each; the linears that queries come from and that the heads' context goes to."""

    model: nn.Module
    inputs: dict[str, Tensor]
    layers: tuple[str, str]
    query: str
    output: str
    count: str

    @property
    def plan(self) -> HeadPlan:
        return HeadPlan(dict.fromkeys(self.layers, (3, 4)))  # of one group where there are two

    def part(self, name: str, layer: int = 0) -> nn.Module:
        return self.model.get_submodule(f"{self.layers[layer]}.{name}".rstrip("."))

    def replace(self, name: str, new: nn.Module) -> None:
        owner, _, attribute = name.rpartition(".")
        setattr(self.part(owner), attribute, new)


class Ours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            mha.MultiHeadAttention.square(13, 6, bias=True, head_dim=7, num_kv_heads=2) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x, x, x)
        return x


class Torchs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.MultiheadAttention(42, 6, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x, x, x, need_weights=False)[0]
        return x


def ours() -> Case:
    inputs = {"x": torch.randn(2, 5, 13, dtype=torch.float64)}
    return Case(Ours().double().eval(), inputs, ("layers.0", "layers.1"), "W_q", "W_o", "num_kv_heads")


def torchs() -> Case:
    inputs = {"x": torch.randn(2, 5, 42, dtype=torch.float64)}
    return Case(Torchs().double().eval(), inputs, ("layers.0", "layers.1"), "", "out_proj", "num_heads")


def transformers(model_type: str, layer: str, query: str, output: str, count: str) -> Case:
    pytest.importorskip("transformers", minversion="5.0", reason="the zoo is of transformers' models")
    from tools.model_zoo.zoo import build

    made = build(model_type)
    return Case(made.model, made.inputs, (layer.format(0), layer.format(1)), query, output, count)


CASES = {
    "ours": ours,
    "torch": torchs,
    "llama": partial(transformers, "llama", "layers.{}.self_attn", "q_proj", "o_proj", "num_key_value_groups"),
    "gpt2": partial(transformers, "gpt2", "h.{}.attn", "c_attn", "c_proj", "num_heads"),
    "bert": partial(
        transformers, "bert", "encoder.layer.{}.attention", "self.query", "output.dense", "self.num_attention_heads"
    ),
}


def make(name: str) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return CASES[name]()
