"""Sequences of like length share a batch, padded to the longest of it."""

import random

import pytest

from mha.tasks import by_length, padded, rows_by_length

LENGTHS = [random.Random(0).randint(1, 31) for _ in range(97)]
EXAMPLES = [[100 * row + place + 1 for place in range(length)] for row, length in enumerate(LENGTHS)]


def unpadded(batches):
    """The sequences in the batches: the token ids whose mask is 1, in order."""
    return [ids[mask.bool()].tolist() for batch in batches for ids, mask in zip(*batch.values(), strict=True)]


@pytest.mark.parametrize("size", [{"batch_size": 13}, {"tokens_per_batch": 113}], ids=["batch_size", "tokens"])
def test_every_sequence_is_in_one_batch_and_lengths_rise(size):
    sequences = unpadded(by_length(EXAMPLES, **size))
    assert sorted(sequences) == sorted(EXAMPLES)
    assert [len(sequence) for sequence in sequences] == sorted(LENGTHS)


def test_batches_are_full_and_as_wide_as_their_longest():
    batches = by_length(EXAMPLES, batch_size=13)
    assert [len(batch["input_ids"]) for batch in batches] == [13] * 7 + [6]
    for number, batch in enumerate(batches):
        assert batch["input_ids"].shape[1] == max(sorted(LENGTHS)[13 * number : 13 * number + 13])


def test_no_batch_has_more_tokens_than_allowed_but_for_a_long_one_alone():
    lengths = [3, 3, 3, 4, 5, 11, 29]
    assert rows_by_length(lengths, tokens_per_batch=12) == [[0, 1, 2], [3, 4], [5], [6]]


def test_rows_of_equal_length_keep_their_order():
    assert rows_by_length([7, 5, 7, 5, 7], batch_size=2) == [[1, 3], [0, 2], [4]]


def test_padding_is_at_the_end_and_masked():
    batch = padded([[5, 6, 7], [8]], padding=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_no_sequences_are_no_batches():
    assert by_length([], batch_size=3) == []


@pytest.mark.parametrize(
    ("sizes", "came"),
    [
        ({}, "neither"),
        ({"batch_size": 2, "tokens_per_batch": 5}, "'tokens_per_batch': 5"),
        ({"batch_size": 0}, "'batch_size': 0"),
    ],
)
def test_one_size_is_needed(sizes, came):
    with pytest.raises(
        ValueError, match=f"expected batch_size or tokens_per_batch, a whole number from 1 up; got .*{came}"
    ):
        by_length(EXAMPLES, **sizes)


def test_a_sequence_without_tokens_is_named():
    with pytest.raises(ValueError, match="examples: number 1 has no token; leave empty sequences out"):
        by_length([[5], [], [6]], batch_size=2)
    with pytest.raises(ValueError, match="expected sequences with at least one token, got 2 without any"):
        padded([[], []])
