"""Inputs by the names of a forward, and others like them at other sizes."""

import pytest
import torch
from torch import nn

from mha.exporting.inputs import SIZES, named, variants
from mha.values.errors import ExportError

X = torch.randn(3, 7, 5)


class Model(nn.Module):
    def forward(self, x, mask=None, *, flag=True, **more):
        return x, mask, flag, more


@pytest.mark.parametrize(
    ("example", "names"),
    [
        (X, ["x"]),
        ((X, X), ["x", "mask"]),
        ({"x": X, "flag": False}, ["x", "flag"]),
        (((X,), {"mask": None, "ids": X}), ["x", "ids"]),
        ((X, {"flag": True}), ["x", "flag"]),
    ],
)
def test_an_example_in_any_of_its_forms_becomes_names(example, names):
    assert list(named(Model(), example)) == names


class Unnamed(nn.Module):
    def forward(self, *inputs):
        return inputs


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (Model(), (X, X, X), r"does not fit Model.forward \(too many positional"),
        (Model(), {"flag": True, "x": None}, "no tensor among flag; give one"),
        (Unnamed(), (X, X), r"Unnamed.forward takes \*inputs, which has no names"),
        (Model(), 7, r"expected an example as \(args, kwargs\), got int"),
    ],
)
def test_an_example_that_does_not_fit_is_told_why(model, example, message):
    with pytest.raises(ExportError, match=message):
        named(model, example)


def test_variants_have_other_sizes_where_these_are_open_and_values_like_the_examples():
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])
    inputs = {"x": X, "ids": torch.tensor([[3, 9, 9, 3, 3, 9, 3]] * 3), "mask": mask, "flag": True, "fixed": X}
    sizes = {"x": [None, None, 5], "ids": [None, None], "mask": [None, None], "fixed": [3, 7, 5]}
    found = [longer for longer, _ in variants(inputs, sizes)]
    as_long = [shorter for _, shorter in variants(inputs, sizes)]
    assert [tuple(each["x"].shape) for each in as_long] == [(batch, 7, 5) for batch, _ in SIZES]
    assert [tuple(each["x"].shape) for each in found] == [(*size, 5) for size in SIZES]
    for each, (batch, length) in zip(found, SIZES, strict=True):
        assert each["ids"].shape == each["mask"].shape == (batch, length)
        assert set(each["ids"].unique().tolist()) <= {3, 9}
        assert (each["mask"].diff(dim=1) <= 0).all()
        assert each["mask"][:, 0].all()
        assert each["flag"] is True
        assert each["fixed"].shape == (3, 7, 5)
    assert not found[2]["mask"].all()
    assert all(each["mask"].all() for each, _ in variants({"mask": torch.ones(2, 4)}, {"mask": [None, None]}))


def test_one_length_a_row_stays_one_and_its_batch_follows():
    ((first, _), *_) = variants({"x": X, "lens": torch.tensor([7, 3, 5])}, {"x": [None, None, 5], "lens": [None]})
    assert first["lens"].shape == (SIZES[0][0],)
    assert set(first["lens"].tolist()) <= {7, 3, 5}
