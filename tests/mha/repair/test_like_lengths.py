"""Texts of like length in one batch: nothing but padding is added or lost, and what can't be moved so stays."""

import torch

from mha.repair.like_lengths import by_length


def texts(*several, pad=0, width=None):
    """A batch of token ids (b, n), a mask, a label each, and labels of tokens."""
    width = width or max(map(len, several))
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in several])
    ids = torch.tensor([[*text, *[pad] * (width - len(text))] for text in several])
    tags = torch.where(mask > 0, ids * 2, -100)
    return {"input_ids": ids, "attention_mask": mask, "label": ids[:, 0] * 10, "tags": tags}


def rows_in(batches):
    """Every text, with its label and the labels of its tokens."""
    return sorted(
        (ids[mask > 0].tolist(), label.item(), tags[mask > 0].tolist())
        for batch in batches
        for ids, mask, label, tags in zip(*batch.values(), strict=True)
    )


def test_texts_of_like_length_share_a_batch_cut_to_its_longest():
    given = [texts([1, 2, 3, 4, 5], [6], [7, 8], pad=9), texts([10, 11, 12, 13], [14, 15], [16], width=7, pad=9)]
    made = by_length(given)
    assert rows_in(made) == rows_in(given)
    assert sorted(batch["input_ids"].shape for batch in made) == [(3, 2), (3, 5)]
    for batch in made:
        assert batch["input_ids"].shape[1] == batch["attention_mask"].sum(1).max()
        assert (batch["input_ids"][batch["attention_mask"] == 0] == 9).all()
        assert (batch["tags"][batch["attention_mask"] == 0] == -100).all()
    assert sum(batch["input_ids"].numel() for batch in made) < sum(batch["input_ids"].numel() for batch in given)


def assert_as_they_are(batches):
    assert by_length(batches) is batches


def test_other_batches_are_returned_as_they_are():
    one, other = texts([1, 2, 3], [4]), texts([5, 6], [7])
    assert_as_they_are([one])
    assert_as_they_are([torch.ones(3, 5), torch.ones(3, 5)])
    assert_as_they_are([one, {"input_ids": other["input_ids"]}])
    assert_as_they_are([one, {**other, "label": [1, 2]}])
    assert_as_they_are([one, {**other, "attention_mask": other["attention_mask"].flip(1)}])  # padding in front


def test_what_follows_the_padding_of_another_sequence_is_not_cut():
    """Decoder inputs or target texts as wide as the source: their tokens end elsewhere."""
    several = [texts([1, 2, 3], [4]), texts([5, 6], [7], width=3)]
    targets = torch.arange(6).view(2, 3) + 1
    assert_as_they_are([{**batch, "decoder_input_ids": targets} for batch in several])


def test_what_has_the_width_of_the_tokens_in_another_way_is_not_left_behind():
    several = [texts([1, 2, 3], [4]), texts([5, 6], [7], width=3)]
    assert_as_they_are([{**batch, "bias": torch.zeros(2, 1, 3, 3)} for batch in several])
    assert_as_they_are([{**one, "more": torch.zeros(2, size)} for one, size in zip(several, (3, 5), strict=True)])
