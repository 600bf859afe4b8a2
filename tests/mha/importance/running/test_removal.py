"""Costs of heads that leave against least squares by numpy, over the rows themselves."""

from itertools import combinations

import numpy as np
import pytest
import torch

from mha.costs.shapes import Shape, feasible_shapes
from mha.importance.running.removal import DAMPING, Slopes, kept_sets, removal_costs, solved_without

ROWS, OUT, WIDTH = 97, 5, 2


def rows(heads):
    """x (97, heads · 2), off centre, gradients (97, 5), a weight (5, heads · 2), and which head each input is of."""
    generator = torch.Generator().manual_seed(heads)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = heads * WIDTH
    x = draw(ROWS, inputs) @ draw(inputs, inputs) + 1.5
    return x, draw(ROWS, OUT), draw(OUT, inputs), torch.arange(inputs) // WIDTH


def slopes_of(x, gradients):
    slopes = Slopes.zero(x.shape[1], OUT)
    slopes.add(x, gradients)
    return slopes


def cost(x, gradients, weight, kept, *, intercept):
    """What is lost by least squares on rows: those of x count by their gradients, k more are the damping.

    The error is taken by the directions of the gradients, once the best weight for the inputs `kept` is known.
    """
    x, gradients, weight = (one.numpy() for one in (x, gradients, weight))
    counts = (gradients**2).sum(1)
    strength = DAMPING * (counts[:, None] * x**2).sum() / x.shape[1]
    if intercept:
        x = x - counts @ x / counts.sum()
    stacked = np.vstack([np.sqrt(counts)[:, None] * x, np.sqrt(strength) * np.eye(x.shape[1])])
    targets = stacked @ weight.T
    found = np.zeros_like(targets)
    if kept:
        found = stacked[:, kept] @ np.linalg.lstsq(stacked[:, kept], targets, rcond=None)[0]
    shares = gradients.T @ gradients / counts.sum()
    missing = targets - found
    return 0.5 * np.einsum("no,op,np->", missing, shares, missing)


def columns(heads):
    return [head * WIDTH + place for head in heads for place in range(WIDTH)]


def test_sums_are_those_of_the_rows_in_any_shape():
    x, gradients, *_ = rows(3)
    slopes = Slopes.zero(6, OUT)
    slopes.add(x[:90].view(9, 10, 6), gradients[:90].view(9, 10, OUT))
    slopes = slopes + slopes_of(x[90:], gradients[90:])
    with_one = np.hstack([x.numpy(), np.ones((ROWS, 1))])
    counts = (gradients.numpy() ** 2).sum(1)
    np.testing.assert_allclose(slopes.inputs, with_one.T @ (counts[:, None] * with_one), rtol=1e-12)
    np.testing.assert_allclose(slopes.outputs, gradients.numpy().T @ gradients.numpy(), rtol=1e-12)
    scaled = slopes.scaled(7.0)
    np.testing.assert_allclose(scaled.outputs, slopes_of(x, gradients * 7**0.5).outputs, rtol=1e-12)
    np.testing.assert_allclose(scaled.inputs, slopes_of(x, gradients * 7**0.5).inputs, rtol=1e-12)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("alike", [True, False])
def test_heads_leave_cheapest_first_and_each_costs_what_it_adds(intercept, alike):
    x, gradients, weight, owner = rows(5)
    slopes = slopes_of(x, gradients)
    if alike:  # all directions of the output count alike, each token as it does otherwise
        slopes.outputs = torch.eye(OUT, dtype=torch.float64) * slopes.outputs.trace() / OUT
        parts = torch.eye(OUT, dtype=torch.float64).repeat(ROWS, 1)
        scale = (gradients.square().sum(1) / OUT).sqrt().repeat_interleave(OUT)
        x, gradients = x.repeat_interleave(OUT, 0), parts * scale[:, None]
    costs = removal_costs(slopes, weight, owner, intercept=intercept)
    left, lost, least = list(range(5)), 0.0, 0.0
    while left:
        without = {head: cost(x, gradients, weight, columns(set(left) - {head}), intercept=intercept) for head in left}
        head = min(without, key=without.get)
        least = max(least, without[head] - lost)
        assert costs[head].item() == pytest.approx(least, rel=1e-8)
        lost = without[head]
        left.remove(head)


def test_costs_are_those_of_all_directions_alike_times_the_loss_of_each_token():
    """By hand: one head of one input, one output. Without it the loss is half of what it added, squared, by slope."""
    x, g = torch.tensor([[2.0], [3.0], [5.0]]).double(), torch.tensor([[1.0], [-1.0], [2.0]]).double()
    slopes = Slopes.zero(1, 1)
    slopes.add(x, g)
    weight = torch.tensor([[7.0]]).double()
    total = 4 + 9 + 4 * 25
    found = removal_costs(slopes, weight, torch.zeros(1, dtype=torch.long), intercept=False)
    assert found.item() == pytest.approx(0.5 * 49 * total * (1 + DAMPING))
    around = total - (2 + 3 + 4 * 5) ** 2 / 6
    found = removal_costs(slopes, weight, torch.zeros(1, dtype=torch.long), intercept=True)
    assert found.item() == pytest.approx(0.5 * 49 * (around + DAMPING * total))


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("heads", "groups"), [(5, 5), (6, 3), (6, 2), (3, 1), (1, 1)])
def test_every_feasible_shape_has_a_set_of_that_cost(heads, groups, intercept):
    x, gradients, weight, owner = rows(heads)
    found = kept_sets(slopes_of(x, gradients), weight, owner, groups, intercept=intercept)
    shapes = [Shape(len(kept.positions), kept.groups) for kept in found]
    assert sorted(shapes) == sorted(feasible_shapes(Shape(heads, groups)))
    per_group = heads // groups
    for kept, shape in zip(found, shapes, strict=True):
        held = [head // per_group for head in kept.positions]
        assert list(kept.positions) == sorted(kept.positions)
        assert {held.count(group) for group in held} <= {shape.per_group}
        assert len(set(held)) == kept.groups
        expected = cost(x, gradients, weight, columns(kept.positions), intercept=intercept)
        assert kept.cost == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_the_whole_costs_nothing_and_none_costs_all():
    x, gradients, weight, owner = rows(6)
    found = {
        len(kept.positions): kept for kept in kept_sets(slopes_of(x, gradients), weight, owner, 3, intercept=False)
    }
    assert found[6].cost == 0.0
    counts = gradients.square().sum(1)
    shares = gradients.T @ gradients / counts.sum()
    gram = x.T @ (counts[:, None] * x)
    gram += DAMPING * gram.diagonal().mean() * torch.eye(12)
    assert found[0].cost == pytest.approx(0.5 * torch.einsum("op,oi,ij,pj->", shares, weight, gram, weight).item())


def test_of_single_heads_the_best_leaves_and_more_heads_never_cost_more():
    x, gradients, weight, owner = rows(5)
    found = kept_sets(slopes_of(x, gradients), weight, owner, 5, intercept=True)
    by_number = {len(kept.positions): kept for kept in found}
    best = min(combinations(range(5), 4), key=lambda kept: cost(x, gradients, weight, columns(kept), intercept=True))
    assert by_number[4].positions == best
    costs = [by_number[number].cost for number in range(6)]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("intercept", [True, False])
def test_a_layer_that_nothing_depends_on_costs_nothing(intercept):
    *_, weight, owner = rows(6)
    slopes = Slopes.zero(12, OUT)
    assert removal_costs(slopes, weight, owner, intercept=intercept).tolist() == [0.0] * 6
    assert all(kept.cost == 0.0 for kept in kept_sets(slopes, weight, owner, 3, intercept=intercept))


@pytest.mark.parametrize("intercept", [True, False])
def test_heads_that_say_the_same_stand_in_for_one_another(intercept):
    x, gradients, weight, owner = rows(5)
    x[:, 6:8] = x[:, 2:4] @ torch.tensor([[1.0, 2.0], [-1.0, 3.0]]).double()  # head 3 sees what head 1 sees
    found = kept_sets(slopes_of(x, gradients), weight, owner, 5, intercept=intercept)
    of_four = next(kept for kept in found if len(kept.positions) == 4)
    assert len({1, 3} & set(of_four.positions)) == 1
    of_none = next(kept for kept in found if not kept.positions)
    assert of_four.cost < 2 * DAMPING * of_none.cost


@pytest.mark.parametrize("kept", [(0, 2, 3), (4,), (), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_weight_without_some_heads_is_that_of_least_squares(with_bias, kept):
    x, gradients, weight, owner = rows(5)
    bias = torch.arange(OUT, dtype=torch.float64) if with_bias else None
    counts = gradients.square().sum(1).numpy()
    strength = DAMPING * (counts[:, None] * x.numpy() ** 2).sum() / x.shape[1]
    centre = counts @ x.numpy() / counts.sum() * with_bias
    stacked = np.vstack([np.sqrt(counts)[:, None] * (x.numpy() - centre), np.sqrt(strength) * np.eye(x.shape[1])])
    expected = np.zeros_like(weight)
    if kept:
        own = columns(kept)
        expected[:, own] = np.linalg.lstsq(stacked[:, own], stacked @ weight.numpy().T, rcond=None)[0].T
    solved, shift = solved_without(slopes_of(x, gradients), weight, bias, owner, kept)
    np.testing.assert_allclose(solved, expected, rtol=1e-8, atol=1e-10)
    if bias is None:
        assert shift is None
    else:
        np.testing.assert_allclose(shift, bias.numpy() + (weight.numpy() - expected) @ centre, rtol=1e-8, atol=1e-10)
