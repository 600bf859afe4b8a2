from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from bench.importance.data import count, pick, repeat
from bench.importance.subjects import subject


class Two(NamedTuple):
    tokens: Tensor
    answers: Tensor


BATCHES = [
    Two(torch.tensor([[1, 2], [3, 4]]), torch.tensor([5, 6])),
    Two(torch.tensor([[7, 8, 9]]), torch.tensor([10])),
]


def test_examples_are_counted():
    assert count(BATCHES) == 3


def test_examples_come_in_the_order_asked_for_and_are_padded_to_the_longest_beside_them():
    first, second = pick(BATCHES, [2, 0, 1], size=2)
    assert isinstance(first, Two)
    assert first.tokens.tolist() == [[7, 8, 9], [1, 2, 0]]
    assert first.answers.tolist() == [10, 5]
    assert (second.tokens.tolist(), second.answers.tolist()) == ([[3, 4]], [6])


def test_an_example_may_come_twice():
    (batch,) = pick([tuple(BATCHES[0])], [1, 1, 1], size=5)
    assert isinstance(batch, tuple)
    assert [part.tolist() for part in batch] == [[[3, 4]] * 3, [6] * 3]


def test_a_batch_may_be_a_mapping():
    batches = [{"ids": torch.tensor([[1, 2], [3, 4]]), "mask": torch.ones(2, 2)}, {"ids": torch.tensor([[7, 8, 9]]),
               "mask": torch.ones(1, 3)}]  # fmt: skip
    (picked,) = pick(batches, [2, 0], size=2)
    assert (count(batches), list(picked)) == (3, ["ids", "mask"])
    assert picked["ids"].tolist() == [[7, 8, 9], [1, 2, 0]]
    assert picked["mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert repeat(batches[1], 2)["ids"].tolist() == [[7, 8, 9], [7, 8, 9]]


def test_repeating_goes_through_all_examples_again():
    again = repeat(BATCHES[0], 2)
    assert again.tokens.tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]
    assert again.answers.tolist() == [5, 6, 5, 6]


def test_padding_changes_no_loss(monkeypatch, model_cache):
    monkeypatch.setenv("MHA_BENCH_CACHE", str(model_cache))
    it = subject("dates", 0, quick=True)
    expected = torch.cat([it.per_example(it.model, batch)[0] for batch in it.calibration])
    rows = torch.randperm(len(expected), generator=torch.Generator().manual_seed(0)).tolist()
    found = torch.cat([it.per_example(it.model, batch)[0] for batch in pick(it.calibration, rows, 7)])
    assert found.tolist() == pytest.approx(expected[rows].tolist(), rel=1e-4)
