"""Small models of our attention with every dimension a different prime, so that swapped axes can't cancel."""

import pytest
import torch
from torch import Tensor, nn

from mha.importance.registry import registered
from tests.mha.support.losses import loss_of
from tests.mha.support.models import Reader


@pytest.fixture(autouse=True)
def _criteria_as_they_were(monkeypatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registered, "_CRITERIA", dict(registered._CRITERIA))


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


@pytest.fixture
def loss():
    """Cross-entropy, the mean over the batch's examples."""
    return loss_of
