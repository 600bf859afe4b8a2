"""Criteria against numbers computed another way, and the contract that every criterion keeps."""

import copy

import pytest
import torch
from torch import nn

import mha
from mha.importance import describe

LAYERS = {"plain": (7, 3), "grouped": (10, 11), "cross": (3, 13)}


def reweighed(model, name, factors):
    """A copy whose heads' columns of W_o are multiplied: gating, done by hand."""
    changed = copy.deepcopy(model)
    changed.get_submodule(name).W_o.weight.data *= factors.double().repeat_interleave(LAYERS[name][1])
    return changed


def examples(batches):
    return [tuple(part[i : i + 1] for part in batch) for batch in batches for i in range(len(batch[0]))]


def mean_loss(model, batches, loss):
    with torch.no_grad():
        return torch.stack([loss(model, example) for example in examples(batches)]).mean().item()


def test_leave_one_out_is_the_loss_without_the_head(model, batches, loss):
    scores = mha.score(model, batches, loss, "leave_one_out").scores
    dense = mean_loss(model, batches, loss)
    for name, (heads, _) in LAYERS.items():
        for head in range(heads):
            off = torch.ones(heads)
            off[head] = 0
            expected = mean_loss(reweighed(model, name, off), batches, loss) - dense
            assert scores[name][head].item() == pytest.approx(expected, abs=1e-12)


def test_taylor_is_the_mean_absolute_derivative_per_example(model, batches, loss):
    """By central differences on one example at a time; the batches have different sizes."""
    scores = mha.score(model, batches, loss, "taylor").scores
    step = 1e-5
    for name, head in (("plain", 2), ("grouped", 7), ("cross", 0)):
        change = torch.zeros(LAYERS[name][0], dtype=torch.float64)
        change[head] = step
        up, down = reweighed(model, name, 1 + change), reweighed(model, name, 1 - change)
        slopes = [(loss(up, one) - loss(down, one)).item() / (2 * step) for one in examples(batches)]
        assert scores[name][head].item() == pytest.approx(sum(map(abs, slopes)) / len(slopes), rel=1e-5)


def test_taylor_normalized_has_unit_layers(model, batches, loss):
    raw = mha.score(model, batches, loss, "taylor").scores
    normalized = mha.score(model, batches, loss, "taylor", normalize=True).scores
    for name in LAYERS:
        torch.testing.assert_close(normalized[name], raw[name] / raw[name].norm())


def test_taylor_does_not_depend_on_how_examples_are_batched(model, batches, loss):
    whole = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    one, several = (mha.score(model, data, loss, "taylor").scores for data in (whole, batches))
    for name in LAYERS:
        torch.testing.assert_close(one[name], several[name], rtol=1e-10, atol=1e-14)


def test_magnitude_is_the_norm_of_the_columns(model):
    scores = mha.score(model, None, None, "magnitude").scores
    for name, (heads, width) in LAYERS.items():
        weight = model.get_submodule(name).W_o.weight
        expected = torch.stack([weight[:, h * width : (h + 1) * width].norm() for h in range(heads)])
        torch.testing.assert_close(scores[name], expected.detach())


def test_random_depends_on_the_seed_alone(model):
    first, same, other = (mha.score(model, None, None, "random", seed=seed) for seed in (5, 5, 6))
    assert first == same
    assert first != other


def test_gate_starts_at_the_identity(model, batches, loss):
    scores = mha.score(model, batches, loss, "gate", epochs=0).scores
    assert all(torch.equal(row, torch.ones(len(row), dtype=row.dtype)) for row in scores.values())


def test_gate_closes_a_head_that_hurts_and_keeps_the_layers_sum():
    """Two heads, of which one only adds a harmful constant direction to the prediction."""
    attention = mha.MultiHeadAttention(1, 1, 1, 1, 2, head_dim=1)
    for linear in (attention.W_q, attention.W_k):
        nn.init.zeros_(linear.weight)
    attention.W_v.weight.data[:] = 1.0
    attention.W_o.weight.data[:] = torch.tensor([[0.5, -0.5]])
    x = torch.linspace(0.1, 1, 11).reshape(11, 1, 1)
    scores = mha.score(
        attention, [x], lambda model, batch: (model(batch, batch, batch) - batch).square().mean(), "gate", epochs=200
    )
    harmless, harmful = scores.scores[""].tolist()
    assert harmless > 1.9
    assert harmful < 0.1
    assert harmless + harmful == pytest.approx(2.0, abs=1e-5)


def test_default_is_leave_one_out(model, batches, loss):
    assert mha.score(model, batches, loss) == mha.score(model, batches, loss, "leave_one_out")


@pytest.mark.parametrize("criterion", mha.criteria())
def test_every_criterion_leaves_the_model_and_the_world_as_they_were(model, batches, loss, criterion):
    model.train()
    model.plain.eval()
    model.plain.W_q.weight.grad = torch.full_like(model.plain.W_q.weight, 7.0)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    with torch.no_grad():
        scores = mha.score(model, batches, loss, criterion)
    assert torch.equal(state, torch.random.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [p.grad is None for p in model.parameters()].count(False) == 1
    assert (model.plain.W_q.weight.grad == 7.0).all()
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert {name: len(row) for name, row in scores.scores.items()} == {"plain": 7, "grouped": 10, "cross": 3}
    assert scores.groups == {"plain": 7, "grouped": 5, "cross": 3}


@pytest.mark.parametrize("criterion", mha.criteria())
def test_every_criterion_is_deterministic(model, batches, loss, criterion):
    first = mha.score(model, batches, loss, criterion, seed=3)
    torch.rand(1)
    assert first == mha.score(model, batches, loss, criterion, seed=3)


@pytest.mark.parametrize("criterion", mha.criteria())
def test_every_criterion_scores_a_pruned_model_by_original_numbers(model, batches, loss, criterion):
    pruned = mha.prune(model, mha.HeadPlan({"plain": (1, 4, 6), "cross": ()}))
    scores = mha.score(pruned, batches, loss, criterion)
    assert scores.heads["plain"] == (1, 4, 6)
    assert len(scores.scores["cross"]) == 0
    assert scores.to_frame()["head"].tolist() == [1, 4, 6, *range(10)]


WITH_DATA = [name for name in mha.criteria() if describe(name).needs != "nothing"]
WITH_LOSS = [name for name in mha.criteria() if describe(name).needs in ("outputs", "gradients")]


def broken(kind):
    """A loss that is wrong in one way."""

    def loss(model, batch):
        output = model(*batch[:2])
        return {
            "nan": lambda: output.sum() * float("nan"),
            "vector": lambda: output.sum(dim=1),
            "number": lambda: output.sum().item(),
        }[kind]()

    return loss


@pytest.mark.parametrize("criterion", WITH_DATA)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", r"batch 0: the loss is nan; look for NaN"),
        ("vector", r"batch 0: expected loss\(model, batch\) to be a scalar tensor.*got shape \(7,\)"),
        ("number", r"to be a scalar tensor, the mean over the batch's examples, got -?\d"),
    ],
)
def test_losses_that_are_wrong(model, batches, criterion, kind, message):
    with pytest.raises(mha.MhaError, match=message):
        mha.score(model, batches, broken(kind), criterion)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("criterion", WITH_DATA)
def test_calibration_data_that_is_wrong(model, batches, loss, criterion):
    with pytest.raises(mha.MhaError, match=r"the calibration set is empty"):
        mha.score(model, [], loss, criterion)
    with pytest.raises(mha.MhaError, match=r"needs calibration batches, got None"):
        mha.score(model, None, loss, criterion)
    with pytest.raises(mha.MhaError, match=r"batches is an iterator, which can be read only once"):
        mha.score(model, iter(batches), loss, criterion)
    with pytest.raises(mha.MhaError, match=r"expected loss\(model, batch\) -> scalar, got None"):
        mha.score(model, batches, None, criterion)
    nothing = [tuple(part[:0] for part in batches[0])]
    with pytest.raises(mha.MhaError, match=r"batch 0: (computing the loss ran none|the loss is nan)"):
        mha.score(model, nothing, loss, criterion)


@pytest.mark.parametrize("criterion", WITH_LOSS)
def test_a_loss_that_does_not_depend_on_the_model(model, batches, criterion):
    with pytest.raises(mha.MhaError, match=r"computing the loss ran none of the model's attention layers"):
        mha.score(model, batches, lambda *_: torch.tensor(1.0, requires_grad=True), criterion)

    def ignores_output(model, batch):
        model(*batch[:2])
        return torch.tensor(1.0, requires_grad=True)

    with pytest.raises(mha.MhaError, match=r"no gradient with respect to any attention head|does not depend on"):
        mha.score(model, batches, ignores_output, criterion)


def test_a_loss_need_not_be_differentiable_to_leave_heads_out(model, batches):
    middle = torch.cat([model(*batch[:2])[:, 0] for batch in batches]).median().item()

    def mistakes(model, batch):
        return ((model(*batch[:2])[:, 0] > middle) != (batch[2] == 1)).double().mean()

    scores = mha.score(model, batches, mistakes, "leave_one_out")
    total = sum(len(batch[2]) for batch in batches)
    counts = torch.cat(list(scores.scores.values())) * total
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)
    with pytest.raises(
        mha.MhaError, match=r"no gradient with respect to any attention head; it must be differentiable"
    ):
        mha.score(model, batches, mistakes, "taylor")


class OddAttention(nn.Linear):
    """Attention by name, of no known family."""

    def __init__(self) -> None:
        super().__init__(2, 3)


def test_unknown_names_say_what_there_is(model, batches, loss):
    with pytest.raises(mha.MhaError, match=r"unknown criterion 'taylr'; there are .*fisher, .*gate, .*leave_one_out, "):
        mha.score(model, batches, loss, "taylr")
    with pytest.raises(mha.MhaError, match=r"criterion 'taylor' has no option power; it takes unit, normalize"):
        mha.score(model, batches, loss, "taylor", power=2)
    with pytest.raises(mha.UnsupportedModule, match=r"(?s)no attention of a known family.*'0': OddAttention is of no"):
        mha.score(nn.Sequential(OddAttention()), batches, loss)
