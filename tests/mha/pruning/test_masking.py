"""Masks and gates, against weights zeroed by hand."""

import pytest
import torch

import mha
from mha.pruning.masking import gated


def with_zeroed_columns(model, name, heads, width):
    for head in heads:
        model.get_submodule(name).W_o.weight.data[:, head * width : (head + 1) * width] = 0
    return model


def test_masked_heads_add_nothing(model, inputs):
    plan = mha.HeadPlan({"plain": (0, 2, 3, 5, 6), "grouped": (0,)})
    with mha.masked(model, plan) as same:
        assert same is model
        output = model(*inputs)
    with_zeroed_columns(model, "plain", (1, 4), 3)
    with_zeroed_columns(model, "grouped", range(1, 10), 11)
    torch.testing.assert_close(output, model(*inputs), rtol=0, atol=1e-14)


def test_on_leaving_everything_is_as_before(model, inputs):
    before = model(*inputs)
    with pytest.raises(KeyError), mha.masked(model, mha.HeadPlan({"plain": ()})):
        raise KeyError
    assert torch.equal(model(*inputs), before)


def test_a_head_that_computes_nan_can_be_switched_off(model, inputs):
    model.plain.W_v.weight.data[3:6] = float("nan")
    with mha.masked(model, mha.HeadPlan({"plain": (0, 2, 3, 4, 5, 6)})):
        assert model(*inputs).isfinite().all()


def test_masked_names_what_is_wrong(model):
    with (
        pytest.raises(mha.MhaError, match=r"heads \[7\] do not exist"),
        mha.masked(model, mha.HeadPlan({"plain": (7,)})),
    ):
        pass


def test_gates_scale_columns(model, inputs):
    gate = torch.tensor([0.5, 1.0, 2.0, 0.0, -1.0, 1.0, 3.0])
    layers = mha.find_attention(model)
    with gated(layers, {"plain": gate}):
        output = model(*inputs)
    model.plain.W_o.weight.data *= gate.double().repeat_interleave(3)
    torch.testing.assert_close(output, model(*inputs), rtol=0, atol=1e-14)


def test_gates_per_example(model, inputs):
    layers = mha.find_attention(model)
    gates = torch.rand(19, 7, dtype=torch.float64)
    with gated(layers, {"plain": gates}):
        together = model(*inputs)
    for example in range(19):
        with gated(layers, {"plain": gates[example]}):
            alone = model(*(part[example : example + 1] for part in inputs))
        torch.testing.assert_close(together[example : example + 1], alone, rtol=0, atol=1e-13)
