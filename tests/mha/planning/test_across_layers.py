"""Scores that are not in the loss's currency: which are, and what `choose` does with them."""

import pytest
import torch

import mha
from mha import HeadScores
from mha.importance.registry import describe

APART = ("magnitude", "magnitude_all", "confidence", "entropy", "least_squares", "fluctuation")


@pytest.mark.parametrize("criterion", APART)
def test_scores_of_weights_activations_and_attention_do_not_compare_between_layers(criterion):
    assert not describe(criterion).comparable


@pytest.mark.parametrize("criterion", ["leave_one_out", "shapley", "fisher", "taylor", "subset", "gate", "random"])
def test_scores_that_measure_the_loss_and_random_ones_compare_between_layers(criterion):
    assert describe(criterion).comparable


@pytest.mark.parametrize(("criterion", "comparable"), [("magnitude", False), ("leave_one_out", True)])
def test_scores_carry_it(model, batches, loss, criterion, comparable):
    assert mha.score(model, batches, loss, criterion).comparable is comparable


def growing(**more):
    """Layers of the same scores, each ten times as large as the one before, and one of zeros."""
    row = torch.tensor([1.0, 4.0, 2.0, 3.0])
    rows = {str(layer): row * 10.0**layer for layer in range(3)} | {"zeros": torch.zeros(2), "gone": torch.zeros(0)}
    return HeadScores(rows, **more)


def test_layers_of_small_scores_are_not_emptied():
    across = {"0": (), "1": (0, 1, 2, 3), "2": (0, 1, 2, 3), "zeros": (), "gone": ()}
    apart = {"0": (1, 3), "1": (1, 3), "2": (1, 3), "zeros": (1,), "gone": ()}
    assert mha.choose(growing(comparable=True), heads=8).keep == across
    assert mha.choose(growing(comparable=False), heads=7).keep == apart
    assert mha.choose(growing(comparable=False), heads=8, across_layers=True).keep == across
    assert mha.choose(growing(comparable=True), heads=7, across_layers=False).keep == apart


def test_layers_of_many_heads_leave_as_large_a_share():
    scores = HeadScores({"few": torch.arange(1.0, 5), "many": 100 * torch.arange(0.25, 4.25, 0.25)}, comparable=False)
    assert [len(kept) for kept in mha.choose(scores, heads=10).keep.values()] == [2, 8]


def test_heads_within_a_layer_are_chosen_as_before():
    """And rearranged by what they cost together."""
    generator = torch.Generator().manual_seed(1)
    rows = {name: torch.randn(11, generator=generator) for name in "ab"}
    blocks = {name: torch.randn(5, 11, generator=generator) for name in rows}
    blocks = {name: block.T @ block for name, block in blocks.items()}
    for extra in ({}, {"interactions": blocks}):
        plan = mha.choose(HeadScores(rows, comparable=False, **extra), heads=12, uniform=True)
        for name in rows:
            only = {key: {name: value[name]} for key, value in extra.items()}
            assert plan.keep[name] == mha.choose(HeadScores({name: rows[name]}, **only), heads=6).keep[name]
