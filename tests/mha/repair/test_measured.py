"""What is measured of a layer with fewer heads: replayed passes against whole ones, by hand."""

import copy

import pytest
import torch
from torch import nn

import mha
from mha.repair import selection
from mha.repair.measured import Change, rises
from mha.runtime.progress import Bar


@pytest.fixture
def model():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, nhead=4, dim_feedforward=37, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).double().eval()


class Changing(nn.Module):
    """Adds to a layer's output in place, so that what was recorded can't be replayed."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, x):
        for layer in self.inner.layers:
            x = layer(x)
            x += 0.0
        return x


@pytest.mark.parametrize("wrap", [lambda model: model, Changing])
def test_rises_are_those_of_the_model_with_that_projection(model, wrap):
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(7, 5, 24, generator=generator, dtype=torch.float64) for _ in range(3)]
    whole = wrap(model)
    names = list(mha.find_attention(whole))
    with torch.no_grad():
        judged = [(batch, whole(batch) + 0.1) for batch in batches]

    def measure(small, pair):
        return (small(pair[0]) - pair[1]).square().mean().item()

    changes = {
        name: [Change(torch.randn(24, 24, generator=generator, dtype=torch.float64), bias) for bias in (None, 0.5)]
        for name in (names[0], names[2])
    }
    changes = {
        name: [Change(one.weight, None if one.bias is None else torch.full((24,), 0.5).double()) for one in several]
        for name, several in changes.items()
    }
    before = copy.deepcopy(whole.state_dict())
    found = rises(whole, changes, measure, judged, Bar())
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    for name, several in changes.items():
        for change, rise in zip(several, found[name], strict=True):
            other = copy.deepcopy(whole)
            projection = other.get_submodule(name).out_proj
            projection.weight.data.copy_(change.weight)
            if change.bias is not None:
                projection.bias.data.copy_(change.bias)
            with torch.no_grad():
                expected = sum(measure(other, pair) - measure(whole, pair) for pair in judged) / 3
            assert rise == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("batches", "expected"), [(1, 1), (2, 2), (3, 2), (9, 2)])
def test_the_first_number_of_heads_is_measured_on_all_texts_and_the_others_on_every_other(
    model, monkeypatch, batches, expected
):
    """Batches of 35 tokens, of which 70 are to be judged, evenly spread: of 9 the numbers 2 and 6."""
    seen = []

    def noted(_model, changes, _measure, judged, _bar):
        seen.append(({name: len(several) for name, several in changes.items()}, [batch for batch, _ in judged]))
        return {name: [float(len(seen)), 100.0][: len(several)] for name, several in changes.items()}

    monkeypatch.setattr(selection, "rises", noted)
    monkeypatch.setattr(selection, "JUDGED", 70)
    generator = torch.Generator().manual_seed(1)
    data = [torch.randn(7, 5, 24, generator=generator, dtype=torch.float64) for _ in range(batches)]
    chosen = selection.select(model, data, lambda model, batch: model(batch), bar=Bar())
    texts = [text for _, some in seen for text in some]
    assert len(texts) == expected
    assert [next(place for place, one in enumerate(data) if one is text) for text in texts] == {
        1: [0],
        2: [0, 1],
        3: [0, 2],
        9: [2, 6],
    }[batches]
    assert [set(several.values()) for several, _ in seen] == [{2}, {1}][: len(seen)]
    layer = next(iter(mha.find_attention(model)))
    values = {choice.shape.heads: -choice.value for choice in chosen.choices[layer]}
    assert values[0] == pytest.approx(100.0)
    assert values[2] == pytest.approx((1.0 + 2.0) / 2 if expected == 2 else 1.0)
