"""The task `smollm`: perplexity as it is defined, on sequences that the settings ask for."""

import math

import pytest
import torch
from torch import nn

from bench.tasks.smollm import SmolLM, SmolSettings, next_token_losses

SMALL = SmolSettings(evaluation=3, calibration=5, unlabelled=2, length=13, batch=2)


class Counting(nn.Module):
    """A language model over 11 tokens that is sure of the next number; half of the probability is for the others."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, **_):
        logits = torch.full((*input_ids.shape, 11), math.log(0.5 / 10))
        return type("Output", (), {"logits": logits.scatter(2, ((input_ids + 1) % 11)[..., None], math.log(0.5))})


@pytest.fixture
def task():
    made = SmolLM(SMALL)
    counted = (torch.arange(13) + torch.arange(3)[:, None]) % 11
    counted[2, 7] = (counted[2, 7] + 5) % 11
    made.__dict__["sequences"] = {"evaluation": counted, "calibration": counted}
    return made


def test_perplexity_by_hand(task):
    values = task.evaluate(Counting())
    right, wrong = -math.log(0.5), -math.log(0.05)
    assert values[:, 1].tolist() == [12, 12, 12]
    assert values[:, 0].tolist() == pytest.approx([12 * right, 12 * right, 10 * right + 2 * wrong], rel=1e-6)
    assert task.aggregate(values) == pytest.approx(math.exp((34 * right + 2 * wrong) / 36), rel=1e-6)
    assert task.aggregate(values[[0, 0, 1]]) == pytest.approx(2, rel=1e-6)
    assert (task.higher_is_better, task.chance) == (False, 49152)


def test_the_loss_is_the_mean_over_tokens(task):
    batches = task.calibration()
    assert [batch["input_ids"].shape for batch in batches] == [(2, 13), (1, 13)]
    wrong = 10 * -math.log(0.5) + 2 * -math.log(0.05)
    assert task.loss(Counting(), batches[1]).item() == pytest.approx(wrong / 12, rel=1e-6)


def test_padding_has_no_loss():
    batch = {"input_ids": torch.tensor([[1, 2, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    losses, real = next_token_losses(Counting()(batch["input_ids"]).logits, batch)
    assert losses.tolist() == [pytest.approx([-math.log(0.5), 0])]
    assert real.tolist() == [[1, 0]]
