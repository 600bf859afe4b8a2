"""Questions about a row of handwritten digits: a vision transformer that cannot do without attention.

A single image of scikit-learn's handwritten digits (1797 real images of 8×8 pixels, inside the package)
is recognised by a model without any attention. So a row shows six of them, each cut into a left and a
right half, and asks four questions at once, one token each:

    which digit stands at place i?     where does digit d stand first?
    which digit is the largest?        which digit is the smallest?

Only attention carries anything from the twelve halves to the four questions: without it, the best
answers are those that are most frequent (`chance`). The images are divided first, into training,
calibration and evaluation, and rows are composed from each part by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from bench.training import train, trained
from mha.attention import MultiHeadAttention
from mha.errors import ShapeError
from mha.tasks import Task

SIZE = 8  # pixels, each way
CLASSES = 10
PARTS = {"training": 1100, "calibration": 197, "evaluation": 500}
SEEDS = {"training": 1, "calibration": 2, "evaluation": 3}


@dataclass(frozen=True)
class Settings:
    """The row, the model and its training; a change of any trains anew."""

    places: int = 6
    patch_width: int = 4
    width: int = 96
    hidden: int = 96
    layers: int = 4
    heads: int = 8
    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    distortions: int = 32
    noise: float = 0.1
    seed: int = 0

    @property
    def patches(self) -> int:
        """How many tokens show a piece of the row."""
        return self.places * SIZE // self.patch_width


class Rows(NamedTuple):
    """Images (b, places, 8, 8) in 0…1, questions (b, 4) and their answers (b, 4)."""

    images: Tensor
    questions: Tensor
    answers: Tensor


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a normalisation and added to its input."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, width, width, width, heads, bias=True)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(b, tokens, width) -> the same shape."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, normed)
        return x + self.mlp(self.mlp_norm(x))


class VisionTransformer(nn.Module):
    """Reads the patches of a row and the questions about it; answers at the questions' tokens."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.patch_width = settings.patch_width
        self.patch = nn.Linear(SIZE * settings.patch_width, width)
        self.position = nn.Parameter(0.1 * torch.randn(settings.patches, width))
        self.question = nn.Embedding(settings.places + CLASSES + 2, width)
        nn.init.normal_(self.question.weight, std=0.1)
        self.blocks = nn.ModuleList(
            Block(width, settings.hidden, settings.heads) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.answer = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor, questions: Tensor) -> Tensor:
        """Images (b, places, 8, 8) and questions (b, q) -> logits (b, q, 10)."""
        patches = rearrange(images, "b place y (half x) -> b (place half) (y x)", x=self.patch_width)
        x = torch.cat([self.patch(patches) + self.position, self.question(questions)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.answer(self.norm(x[:, patches.shape[1] :]))


class DigitsTask(Task):
    """Share of the questions about rows of held-out digits that are answered right."""

    name = "digits"
    metric = "accuracy"
    chance = 0.31
    batch_size = 32

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = Settings() if settings is None else settings

    def model(self) -> nn.Module:
        """The trained vision transformer."""
        return trained("digits", self.untrained, self._fit, sources=[Path(__file__)], settings=self.settings)

    def untrained(self) -> VisionTransformer:
        """The model before training; leaves torch's global random state as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return VisionTransformer(self.settings)

    def calibration(self) -> list[Rows]:
        return [self.rows("calibration", 32, seed=batch) for batch in range(16)]

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        """Cross-entropy, the mean over rows and their questions."""
        logits = self.forward(model, batch)
        return F.cross_entropy(logits.flatten(0, 1), batch.answers.to(logits.device).flatten())

    def forward(self, model: nn.Module, batch: Rows) -> Tensor:
        device = next(model.parameters()).device
        return model(batch.images.to(device), batch.questions.to(device))

    def evaluate(self, model: nn.Module, examples: int = 2000) -> np.ndarray:
        """(n,): the share of each row's four questions that is answered right."""
        rows = self.rows("evaluation", examples)
        with torch.inference_mode():
            chunks = [Rows(*chunk) for chunk in zip(*(part.split(250) for part in rows), strict=True)]
            answers = torch.cat([self.forward(model, chunk).argmax(-1).cpu() for chunk in chunks])
        return (answers == rows.answers).double().mean(1).numpy()
