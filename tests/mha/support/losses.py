"""Losses of the models in `models`, and of single examples."""

import torch
from torch import Tensor, nn


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Cross-entropy of a `Reader`, the mean over the batch's examples."""
    x, memory, labels = batch
    return nn.functional.cross_entropy(model(x, memory), labels)


def examples(batches):
    """Every example of the batches as a batch of its own."""
    return [tuple(part[i : i + 1] for part in batch) for batch in batches for i in range(len(batch[0]))]


def mean_loss(model, batches, loss):
    """The mean loss of single examples."""
    with torch.no_grad():
        return torch.stack([loss(model, example) for example in examples(batches)]).mean().item()


def attention_error(model, x):
    """The mean square of what a layer of self-attention changes about its input."""
    return (model(x, x, x) - x).square().mean()


def output_error(model, x):
    """The mean square of what a model changes about its input."""
    return (model(x) - x).square().mean()
