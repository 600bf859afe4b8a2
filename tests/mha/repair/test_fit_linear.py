"""How many rows a layer is fitted to, and which."""

import pytest
import torch
from torch import nn

from mha.repair import fit_linear
from mha.repair.fit_linear import fit
from mha.repair.residual_stream import Goal
from mha.repair.rows import Part, Rows

BATCHES, EXAMPLES, LENGTH, INPUTS, OUTPUTS = 8, 3, 41, 5, 7
TOKENS = BATCHES * EXAMPLES * LENGTH


@pytest.fixture
def rows():
    """Of a layer that computes y = A x + b, noise aside; the first two tokens of every example are padding."""
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(OUTPUTS, INPUTS, generator=generator)
    made = []
    for number in range(BATCHES):
        read = torch.randn(EXAMPLES, LENGTH, INPUTS, generator=generator)
        wanted = read @ target.T + 1 + 0.1 * torch.randn(EXAMPLES, LENGTH, OUTPUTS, generator=generator)
        weights = torch.ones(EXAMPLES, LENGTH)
        weights[:, :2] = 0
        wanted[:, :2] = 1e6
        made.append(Rows(number, read, wanted, weights))
    return target, made


def part_of(rows, *, read=BATCHES):
    """A part whose first batches were read with gradients, so that they say which tokens count."""
    weights = {one.batch: [one.weights] if one.batch < read else [torch.ones(())] for one in rows}
    return Part("layer", nn.Linear(INPUTS, OUTPUTS), nn.Linear(INPUTS, OUTPUTS), Goal(None, weights))


def counted(monkeypatch, part, rows):
    """How many rows the layer is fitted to: to solve over, and held out."""
    taken = []
    solution = fit_linear._solution

    def noted(part, solve, held, method):
        taken.append((float(solve.n), float(held.n)))
        return solution(part, solve, held, method)

    monkeypatch.setattr(fit_linear, "_solution", noted)
    fit(part, rows, "least_squares", BATCHES)
    return taken[0]


def test_all_rows_count_where_they_are_few(monkeypatch, rows):
    _, made = rows
    real = TOKENS * (LENGTH - 2) / LENGTH
    assert counted(monkeypatch, part_of(made), made) == pytest.approx((real * 3 / 4, real / 4))


@pytest.mark.parametrize("read", [BATCHES, 2])
def test_of_many_rows_some_are_drawn_from_all_batches(monkeypatch, rows, read):
    """How many there are is guessed from those that were read; what is left of padding stays out."""
    target, made = rows
    monkeypatch.setattr(fit_linear, "LEAST_ROWS", 300)
    part = part_of(made, read=read)
    solve, held = counted(monkeypatch, part, iter(made))
    assert 240 < solve + held < 360
    assert 0.15 < held / (solve + held) < 0.35
    assert (part.linear.weight - target).abs().max() < 0.1
    assert (part.linear.bias - 1).abs().max() < 0.1
    again = part_of(made, read=read)
    fit(again, made, "least_squares", BATCHES)  # the same rows are drawn each time
    other = again.linear.weight.detach()
    assert (other - target).abs().max() < 0.1


def test_a_wide_layer_gets_so_many_rows_a_feature(monkeypatch, rows):
    _, made = rows
    monkeypatch.setattr(fit_linear, "LEAST_ROWS", 10)
    monkeypatch.setattr(fit_linear, "ROWS_PER_FEATURE", 40)
    assert 140 < sum(counted(monkeypatch, part_of(made), made)) < 260
