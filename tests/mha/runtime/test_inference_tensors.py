"""Inference mode, models without data, weights that are computed, sequences without positions."""

from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn

import mha
from mha import HeadPlan
from mha.runtime.inference_tensors import usable_batch
from mha.values.errors import CalibrationError
from tests.mha.support.losses import loss_of
from tests.mha.support.models import Reader

PLAN = HeadPlan({"plain": (1, 4), "cross": ()})
FEW = {
    "shapley": {"max_permutations": 2, "min_permutations": 2},
    "gate": {"epochs": 1},
    "hard_concrete": {"epochs": 1},
    "subset": {"epochs": 1},
}


def forward(model, batch):
    return model(*batch[:2])


@pytest.fixture
def few(batches):
    return [tuple(part[:3, :7] if part.dim() > 1 else part[:3] for part in batch) for batch in batches[:2]]


def made_there(model, batches):
    """The batches as copies that were made in inference mode."""
    with torch.inference_mode():
        other = Reader().double().eval()
        other.load_state_dict(model.state_dict())
        return other, [tuple(part.clone() for part in batch) for batch in batches]


@pytest.mark.parametrize("criterion", mha.criteria())
def test_inference_mode_changes_no_score(model, few, criterion):
    options = FEW.get(criterion, {})
    expected = mha.score(model, few, loss_of, criterion, **options)
    other, others = made_there(model, few)
    found = [mha.score(*one, loss_of, criterion, **options) for one in ((other, few), (model, others))]
    with torch.inference_mode():
        found.append(mha.score(other, others, loss_of, criterion, **options))
        assert torch.is_inference_mode_enabled()
    for scores in found:
        for name, row in expected.scores.items():
            torch.testing.assert_close(scores.scores[name], row, rtol=1e-9, atol=1e-12)


REPAIRS = {
    "compensate": lambda model, batches: mha.compensate(mha.prune(model, PLAN), model, batches, forward),
    "shrink": lambda model, batches: mha.shrink(model, batches, loss_of, forward, keep=0.5, scope="stream"),
    "distill": lambda model, batches: mha.distill(mha.prune(model, PLAN), model, batches, forward, steps=2),
}


@pytest.mark.parametrize("repair", REPAIRS)
def test_what_is_made_in_inference_mode_is_the_same_and_can_be_trained(model, batches, repair):
    """With as many tokens as least squares take: with fewer, rounding is all that tells some directions apart.

    (The classifier has one row an example, too few of them; scope="stream" leaves it as it is.)
    """
    expected = REPAIRS[repair](model, batches).state_dict()
    other, others = made_there(model, batches)
    with torch.inference_mode():
        found = REPAIRS[repair](other, others)
    assert mha.plan_of(found) == mha.plan_of(REPAIRS[repair](model, batches))
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11)
    loss_of(found, batches[0]).backward()


def test_a_model_pruned_in_inference_mode_can_be_trained(model, few):
    with torch.inference_mode():
        pruned = mha.prune(model, PLAN)
    loss_of(pruned, few[0]).backward()


def test_what_can_not_be_copied_is_named(model, few):
    with torch.inference_mode():
        target = torch.ones(3, 2, dtype=torch.float64)

    def loss(model, batch):
        return (forward(model, batch) * target).mean()

    with pytest.raises(
        CalibrationError, match=r"batch 0: it, or something that the loss uses, was made in torch.infer"
    ):
        mha.score(model, few, loss, "taylor")


Pair = namedtuple("Pair", "left right")


def test_batches_are_copied_in_whatever_holds_them():
    with torch.inference_mode():
        there = torch.arange(3)
    here = torch.ones(2)
    batch = {"a": [there, "name", None], "b": Pair(here, UserDict(c=(there,)))}
    found = usable_batch(batch)
    assert not found["a"][0].is_inference()
    assert not found["b"].right["c"][0].is_inference()
    assert found["b"].right["c"][0].tolist() == [0, 1, 2]
    assert found["b"].left is here
    assert batch["a"][0] is there
    assert usable_batch(found) is found


@pytest.mark.parametrize("criterion", mha.criteria())
def test_a_model_without_data_is_scored_at_random_or_refused(few, criterion):
    with torch.device("meta"):
        model = Reader()
    if criterion == "random":
        assert mha.score(model, None, None, "random").num_heads == 20
        return
    with pytest.raises(
        CalibrationError, match=r"^embed\.weight is on the meta device, without data: load weights first"
    ):
        mha.score(model, few, loss_of, criterion)


@pytest.mark.parametrize("repair", REPAIRS)
def test_a_model_without_data_is_not_repaired(few, repair):
    with torch.device("meta"):
        model = Reader()
    with pytest.raises(
        CalibrationError, match=r"^embed\.weight is on the meta device, without data: load weights first"
    ):
        REPAIRS[repair](model, few)


@pytest.mark.parametrize("old", [False, True], ids=["parametrized", "old"])
@pytest.mark.parametrize("criterion", mha.criteria())
def test_a_weight_normed_projection_counts_by_the_weight_it_has(model, few, criterion, old):
    options = FEW.get(criterion, {})
    twice = Reader().double().eval()
    twice.load_state_dict(model.state_dict())
    twice.plain.W_o.weight.data *= 2
    expected = mha.score(twice, few, loss_of, criterion, **options)
    if old:
        with pytest.warns(FutureWarning, match="weight_norm"):
            nn.utils.weight_norm(model.plain.W_o)
        model.plain.W_o.weight_g.data *= 2  # what the attribute `weight` does not know before the next pass
    else:
        nn.utils.parametrizations.weight_norm(model.plain.W_o)
        model.plain.W_o.parametrizations.weight.original0.data *= 2
    found = mha.score(model, few, loss_of, criterion, **options)
    for name, row in expected.scores.items():
        torch.testing.assert_close(found.scores[name], row, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("criterion", ["entropy", "confidence"])
@pytest.mark.parametrize("part", [0, 1], ids=["no queries", "no keys"])
def test_sequences_without_positions_do_not_count(model, few, criterion, part):
    empty = list(few[0])
    empty[part] = empty[part][:, :0]

    def loss(model, batch):
        return forward(model, batch).nan_to_num().sum()

    expected = mha.score(model, few[1:], loss, criterion)
    found = mha.score(model, [tuple(empty), *few[1:]], loss, criterion)
    for name in ("cross", *(("plain", "grouped") if part == 0 else ())):
        assert torch.equal(found.scores[name], expected.scores[name])
    with pytest.raises(CalibrationError, match=r"'cross'\]: no row of their attention weights counts"):
        mha.score(model, [tuple(empty)], loss, criterion)
