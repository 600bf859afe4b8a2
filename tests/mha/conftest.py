"""Small models of our attention with every dimension a different prime, so that swapped axes can't cancel."""

import pytest
import torch
from torch import Tensor, nn

from mha import MultiHeadAttention


class Reader(nn.Module):
    """Self-attention, grouped self-attention, and cross-attention to a memory of another width and length.

    7 heads of width 3; 5 groups of 2 heads of width 11; 3 heads of width 13.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 23)
        self.plain = MultiHeadAttention(23, 23, 23, 23, 7, bias=True, head_dim=3)
        self.grouped = MultiHeadAttention(23, 23, 23, 23, 10, head_dim=11, num_kv_heads=5)
        self.cross = MultiHeadAttention(17, 23, 17, 23, 3, bias=True, head_dim=13, dropout=0.5)
        self.classify = nn.Linear(23, 2)

    def forward(self, x: Tensor, memory: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = self.embed(x)
        x = x + self.plain(x, x, x, lengths)
        x = x + self.grouped(x, x, x, is_causal=True)
        x = x + self.cross(x, memory, memory)
        return self.classify(x.mean(dim=1))


@pytest.fixture
def model() -> Reader:
    """A `Reader` in float64 and eval mode, its biases drawn too, so that every parameter matters."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        reader = Reader().double().eval()
        for parameter in reader.parameters():
            nn.init.normal_(parameter, std=0.3)
    return reader


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    """x (19, 29, 5) and memory (19, 31, 17)."""
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(19, 29, 5, generator=generator, dtype=torch.float64),
        torch.randn(19, 31, 17, generator=generator, dtype=torch.float64),
    )


@pytest.fixture
def batches(inputs: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The inputs with labels, as batches of 7, 7 and 5 examples."""
    x, memory = inputs
    labels = torch.arange(len(x)) % 2
    return list(zip(x.split(7), memory.split(7), labels.split(7), strict=True))


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    x, memory, labels = batch
    return nn.functional.cross_entropy(model(x, memory), labels)


@pytest.fixture
def loss():
    """Cross-entropy, the mean over the batch's examples."""
    return loss_of
