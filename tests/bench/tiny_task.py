"""Find the largest of a few numbers: a task small enough to run the whole suite on within seconds."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha import MultiHeadAttention
from mha.tasks import Task

CLASSES, LENGTH, WIDTH, HEADS, HEAD_DIM = 7, 5, 13, 3, 11
Batch = tuple[Tensor, Tensor]


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.layers = nn.ModuleList(
            MultiHeadAttention.square(WIDTH, HEADS, bias=True, head_dim=HEAD_DIM) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x, x, x)
        return self.head(x[:, 0])


class TinyTask(Task):
    """The largest of five numbers, read off the first."""

    name = "tiny"
    metric = "accuracy"
    chance = 1 / CLASSES
    batch_size = 3
    dense_at_least = 0.9
    steps = 60

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = TinyModel()
        parameters = list(model.parameters())
        for seed in range(self.steps):  # by hand: importing torch.optim takes longer than this training
            gradients = torch.autograd.grad(self.loss(model, _batch(64, seed + 100)), parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= 0.05 * gradient.sign() / (1 + seed / 10)
        return model.eval()

    def calibration(self) -> list[Batch]:
        return [_batch(17, seed) for seed in (1, 2)]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch[0])

    def evaluate(self, model: nn.Module) -> np.ndarray:
        tokens, largest = _batch(101, 3)
        with torch.inference_mode():
            return (model(tokens).argmax(-1) == largest).numpy()

    def example(self, batch_size: int, seq_len: int | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (_batch(batch_size, 4, seq_len or LENGTH)[0],), {}

    def attention_examples(self) -> dict[str, tuple[Batch, dict[str, tuple[list[str], list[str]]]]]:
        found = {}
        for seed in (5, 6):
            tokens, largest = _batch(1, seed)
            labels = [str(token) for token in tokens[0].tolist()]
            found[f"seed {seed}"] = (tokens, largest), {f"layers.{index}": (labels, labels) for index in range(2)}
        return found

    def slices(self) -> dict[str, np.ndarray]:
        tokens, largest = _batch(101, 3)
        few = np.arange(101) < 3
        return {"the first is it": (tokens[:, 0] == largest).numpy(), "all": few | ~few, "too few to tell": few}

    def confidences(self, model: nn.Module) -> np.ndarray:
        tokens, largest = _batch(101, 3)
        with torch.inference_mode():
            sure, answers = model(tokens).softmax(-1).max(-1)
        return np.stack([sure.numpy(), (answers == largest).numpy()], axis=-1)

    def prompts(self) -> list[str]:
        return ["1 2 3 4 5", "6 6 0 0 1"]

    def generate(self, model: nn.Module, prompt: str, tokens: int) -> list[str]:
        read = [int(token) for token in prompt.split()]
        for _ in range(tokens):
            with torch.inference_mode():
                read.append(int(model(torch.tensor([read[-LENGTH:]])).argmax(-1)))
        return [f" {token}" for token in read[LENGTH:]]


def _batch(size: int, seed: int, length: int = LENGTH) -> Batch:
    tokens = torch.randint(CLASSES, (size, length), generator=torch.Generator().manual_seed(seed))
    return tokens, tokens.max(dim=1).values


task = TinyTask()
