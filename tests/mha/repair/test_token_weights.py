"""Which tokens count in batches that were not read: told from a mask, or from there being no padding, or not at all."""

import pytest
import torch
from torch import nn

import mha
from mha.pruning.masking import at_rest
from mha.repair.observe import calling_outputs
from mha.repair.reading import read
from mha.repair.token_weights import further_weights, spread, tokens_in


@pytest.mark.parametrize(
    ("count", "numbers"),
    [(0, []), (1, [0]), (2, [0, 1]), (7, [0, 3, 6, 1, 2, 4, 5]), (8, [0, 4, 2, 6, 1, 3, 5, 7])],
)
def test_numbers_are_spread(count, numbers):
    assert list(spread(count)) == numbers


def test_every_number_comes_once():
    assert all(sorted(spread(count)) == list(range(count)) for count in range(130))


def test_tokens_are_those_of_the_layer_that_runs_on_most():
    of_batch = {"a": [torch.ones(2, 3), torch.ones(5)], "b": [torch.ones(7)]}
    assert tokens_in(dict.fromkeys(range(4), of_batch)) == 4 * 11
    assert tokens_in(dict.fromkeys(range(3), of_batch)) == 0  # too few to tell anything
    assert tokens_in({number: {} for number in range(4)}) == 0


def padded(number, dtype=torch.int64):
    """A batch of 3 texts of 5 tokens, the last ones of which are padding, and which of them count."""
    mask = torch.arange(5) < torch.tensor([[5], [2 + number % 3], [4]])
    tokens = torch.arange(1, 16).view(3, 5)
    return {"input_ids": tokens, "attention_mask": mask.to(dtype)}, mask


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_padding_is_what_a_mask_in_the_batch_says(dtype):
    batches = [padded(number, dtype)[0] for number in range(6)]
    seen = {}
    for number in (0, 3, 1, 5):
        mask = padded(number)[1].double()
        seen[number] = {"a": [mask * (number + 1)], "b": [7 * mask]}
    found = further_weights(batches, seen)
    assert sorted(found) == [2, 4]
    counts = {number: padded(number)[1].sum().item() for number in range(6)}
    mean = sum(counts[number] * (number + 1) for number in seen) / sum(counts[number] for number in seen)
    for number, of_batch in found.items():
        mask = padded(number)[1].double().flatten()
        torch.testing.assert_close(of_batch["a"][0], mask * mean)
        torch.testing.assert_close(of_batch["b"][0], mask * 7)


def test_where_all_tokens_count_those_of_further_batches_count_alike():
    batches = [torch.zeros(3, 5, 2)] * 6
    seen = {number: {"a": [torch.full((3, 5), 1.0 + number)]} for number in range(4)}
    found = further_weights(batches, seen)
    assert sorted(found) == [4, 5]
    assert all(of_batch["a"][0].shape == () and of_batch["a"][0].item() == 2.5 for of_batch in found.values())


def test_what_can_not_be_told():
    mask = padded(0)[1]
    seen = {number: {"a": [mask.double()]} for number in range(4)}
    nothing_in_them = [torch.ones(3, 5)] * 6
    assert further_weights(nothing_in_them, seen) is None
    other = [{"attention_mask": padded(number)[1] | True, "x": torch.ones(7)} for number in range(6)]
    assert further_weights(other, seen) is None
    twice = {number: {"a": [mask.double(), mask.double()]} for number in range(4)}
    batches = [{"attention_mask": mask}] * 6
    assert further_weights(batches, twice) is None
    assert further_weights(batches, seen) is not None
    assert further_weights([*batches[:5], {"other": mask}], seen) is None  # one that was not read has no mask


class Pooled(nn.Module):
    """Attention in a residual stream of width 11, and the mean over what a mask does not leave out."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(17, 11)
        self.norm = nn.LayerNorm(11)
        self.attention = mha.MultiHeadAttention.square(11, 5, head_dim=3)
        self.last = nn.LayerNorm(11)

    def forward(self, tokens, mask):
        x = self.embed(tokens)
        y = self.norm(x)
        x = self.last(x + self.attention(y, y, y, mask.sum(1)))
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.parametrize("told", [True, False])
def test_a_model_is_read_on_as_many_batches_as_it_takes(told):
    """13 tokens in each: 4 batches have 52. Where the mask is not in the batch, all of them are read."""
    torch.manual_seed(3)
    model = Pooled().double().eval()
    masks = [(torch.arange(13) < 5 + number)[None] for number in range(7)]
    batches = [(torch.randint(17, (1, 13)), mask if told else 5 + number) for number, mask in enumerate(masks)]
    ran = []

    def forward(model, batch):
        tokens, mask = batch
        mask = mask if told else (torch.arange(13) < mask)[None]
        ran.append(int(mask.sum()) - 5)
        return model(tokens, mask)

    with at_rest(model), calling_outputs(mha.find_attention(model)):
        found = read(model, batches, forward, enough=50)
    expected = [0, 3, 6, 1] if told else [0, 3, 6, 1, 2, 4, 5]
    assert ran == expected
    assert list(found.read) == expected
    weights = found.goals["attention.W_o"].weights
    for number, mask in enumerate(masks):
        assert torch.equal(weights[number][0].flatten() > 0, mask[0])
