"""How long texts may be, and what is filled up."""

from types import SimpleNamespace

import pytest
import torch

from mha.tasks.kinds.base.texts import filled, padding_of, positions_of, random_ids


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 512, "model_type": "bert", "pad_token_id": 0}, 512),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1}, 512),
        ({"model_type": "t5"}, None),
    ],
)
def test_positions(config, expected):
    assert positions_of(SimpleNamespace(**config)) == expected


def test_labels_of_unequal_lengths_are_filled_up():
    assert filled([[1, 2], [3], []], -100).tolist() == [[1, 2], [3, -100], [-100, -100]]
    assert filled([4, 5], -100).tolist() == [4, 5]


def test_a_tokenizer_without_padding():
    assert padding_of(SimpleNamespace(pad_token_id=None)) == 0
    assert padding_of(SimpleNamespace(pad_token_id=7)) == 7


def test_random_ids_are_of_the_vocabulary_and_always_the_same():
    ids = random_ids(SimpleNamespace(vocab_size=11), 31, 13)
    assert ids.shape == (31, 13)
    assert set(ids.flatten().tolist()) == set(range(5, 11))
    assert torch.equal(ids, random_ids(SimpleNamespace(vocab_size=11), 31, 13))
