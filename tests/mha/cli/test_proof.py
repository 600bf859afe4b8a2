"""Where single precision can't tell slicing from masking, double precision does."""

import pytest
import torch

import mha
from mha.cli import proof
from mha.values.errors import EquivalenceError
from tests.mha.cli.tiny import tiny_bert

PLAN = mha.HeadPlan({"bert.encoder.layer.0.attention": (1, 4)})


def inputs():
    return (), {"input_ids": torch.arange(4, 10)[None]}


def test_single_precision_where_it_tells():
    proved = proof.proved(tiny_bert(), PLAN, inputs())
    assert proved.dtype is None
    assert proved.difference == mha.check(tiny_bert(), PLAN, *inputs())


def test_double_precision_where_single_does_not(monkeypatch):
    """A difference beyond rounding in float32 alone, as the roundings of a deep model."""

    def rough(model, *rest):
        if next(model.parameters()).dtype != torch.float64:
            raise EquivalenceError("sliced differs from masked by 0.1")
        return mha.check(model, *rest)

    monkeypatch.setattr(proof, "check", rough)
    proved = proof.proved(tiny_bert(), PLAN, inputs())
    assert proved.dtype == "float64"
    assert proved.difference < 1e-12
    assert proved.sentence().endswith(" in float64.")
    assert proof.Proof(0.0).sentence() == "Slicing computes what masking computes, to the bit."
    assert proof.Proof(2.5e-6).sentence() == "Slicing computes what masking computes, to 2.5e-06."


def test_models_that_differ_are_refused(monkeypatch):
    def wrong(*_):
        raise EquivalenceError("sliced differs from masked by 0.1")

    monkeypatch.setattr(proof, "check", wrong)
    with pytest.raises(EquivalenceError, match=r"differs from masked by 0\.1"):
        proof.proved(tiny_bert(), PLAN, inputs())
