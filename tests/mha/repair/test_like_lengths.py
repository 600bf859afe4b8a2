"""Texts of like length share a batch, and no example is lost, changed or cut."""

import torch

import mha
from mha.repair.like_lengths import by_length


def batch(generator, count, width):
    lengths = torch.randint(1, width + 1, (count,), generator=generator)
    mask = (torch.arange(width)[None] < lengths[:, None]).long()
    ids = torch.where(mask == 1, torch.randint(5, 99, (count, width), generator=generator), 3)
    labels = torch.where(mask == 1, ids + 100, -7)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "kind": torch.randn(count, generator=generator)}


def rows(batches):
    return sorted(
        (ids[mask == 1].tolist(), labels[mask == 1].tolist(), kind.item())
        for one in batches
        for ids, mask, labels, kind in zip(*one.values(), strict=True)
    )


def test_every_example_is_there_once_with_less_padding():
    generator = torch.Generator().manual_seed(0)
    batches = [batch(generator, count, width) for count, width in ((5, 13), (5, 7), (3, 11))]
    again = by_length(batches)
    assert rows(again) == rows(batches)
    assert [len(one["input_ids"]) for one in again] == [5, 5, 3]
    padding = [sum(int((one["attention_mask"] == 0).sum()) for one in some) for some in (again, batches)]
    assert padding[0] < padding[1] / 2
    for one in again:
        hidden = one["attention_mask"] == 0
        assert (one["input_ids"][hidden] == 3).all()
        assert (one["labels"][hidden] == -7).all()
        assert int(one["attention_mask"].sum(dim=1).max()) == one["input_ids"].shape[1]


def test_what_is_no_padded_text_stays_as_it_is():
    generator = torch.Generator().manual_seed(0)
    text = batch(generator, 5, 7)
    left = {**text, "attention_mask": text["attention_mask"].flip(1)}
    nothing_shown = {**text, "attention_mask": torch.zeros_like(text["attention_mask"])}
    odd = {**text, "note": "a string"}
    for other in (left, nothing_shown, odd, (torch.ones(5, 3),), torch.ones(5, 3)):
        batches = [text, other]
        assert by_length(batches) is batches
    assert by_length([text])[0] is text


def test_shrink_reads_them_so():
    widths = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(200, 12)
            self.attention = mha.MultiHeadAttention.square(12, 4)

        def forward(self, input_ids, attention_mask):
            widths.append(input_ids.shape[1])
            x = self.embed(input_ids)
            return x + self.attention(x, x, x, attention_mask.sum(1))

    generator = torch.Generator().manual_seed(0)
    batches = [{key: value for key, value in batch(generator, 4, 9).items() if key not in ("labels", "kind")}
               for _ in range(4)]  # fmt: skip

    def forward(model, one):
        return model(**one) * one["attention_mask"][..., None]

    torch.manual_seed(0)
    model = Model().eval()
    mha.shrink(model, batches, None, forward, keep=0.5)
    assert min(widths) < 5
    assert max(widths) == 9
