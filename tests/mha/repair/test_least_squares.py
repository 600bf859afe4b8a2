"""Least squares from sums against numpy's on the rows themselves."""

import numpy as np
import pytest
import torch

from mha.repair.least_squares import DAMPING, DAMPING_UNTRIED, Moments, recentre, refit, rescale

ROWS, K, OUT = 101, 7, 5


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(11)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = draw(ROWS, K) @ draw(K, K) + 2
    y = x @ draw(K, OUT) + draw(OUT) + draw(ROWS, OUT)
    return x, y, draw(ROWS).abs(), draw(OUT, K), draw(OUT)


def nothing():
    return Moments.zero(K, OUT)


def ridge(x, y, w, weight, bias, damping):
    """By numpy on rows: √w scales each, K further rows pull toward the present weight, the bias is free."""
    x, y, w, weight = (one.numpy() for one in (x, y, w, weight))
    centre = (w @ x / w.sum(), w @ y / w.sum()) if bias is not None else (np.zeros(K), np.zeros(OUT))
    x, y = x - centre[0], y - centre[1]
    root = np.sqrt(w)[:, None]
    strength = np.sqrt(damping * ((root * x) ** 2).sum() / K)
    rows = np.vstack([root * x, strength * np.eye(K)])
    targets = np.vstack([root * y, strength * weight.T])
    solution = np.linalg.lstsq(rows, targets, rcond=None)[0].T
    return solution, centre[1] - solution @ centre[0]


@pytest.mark.parametrize("with_bias", [True, False])
def test_refit_is_damped_least_squares_toward_the_present_weight(data, with_bias):
    x, y, w, weight, bias = data
    bias = bias if with_bias else None
    new, shift = refit(Moments.of(x, y, w), nothing(), weight, bias)
    expected, expected_bias = ridge(x, y, w, weight, bias, DAMPING_UNTRIED)
    np.testing.assert_allclose(new, expected, rtol=1e-9, atol=1e-9)
    if with_bias:
        np.testing.assert_allclose(shift, expected_bias, rtol=1e-9, atol=1e-9)
    else:
        assert shift is None


def test_refit_takes_the_damping_that_serves_held_out_rows_best_and_then_all_rows(data):
    x, y, w, weight, bias = data
    parts = Moments.of(x[:61], y[:61], w[:61]), Moments.of(x[61:], y[61:], w[61:])

    def error(damping):
        new, shift = ridge(x[:61], y[:61], w[:61], weight, bias, damping)
        return (w[61:].numpy() * ((y[61:].numpy() - x[61:].numpy() @ new.T - shift) ** 2).sum(1)).sum()

    best = min(DAMPING, key=error)
    new, shift = refit(*parts, weight, bias)
    expected, expected_bias = ridge(x, y, w, weight, bias, best)
    np.testing.assert_allclose(new, expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(shift, expected_bias, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_wide_layer_is_solved_with_a_damping_as_good_as_the_best(with_bias):
    """Which of them is told by combinations of its 131 outputs; the solution is that of all of them."""
    generator = torch.Generator().manual_seed(5)
    x, noise = (torch.randn(97, size, generator=generator, dtype=torch.float64) for size in (23, 131))
    weight = torch.randn(131, 23, generator=generator, dtype=torch.float64)
    y = x @ (weight + 0.2 * torch.randn(131, 23, generator=generator, dtype=torch.float64)).T + 2 * noise
    bias = torch.zeros(131).double() if with_bias else None
    parts = Moments.of(x[:71], y[:71]), Moments.of(x[71:], y[71:])

    def solved(rows, damping):
        """By the normal equations, about the means where there is a bias."""
        a, residual = x[rows].numpy(), (y[rows] - x[rows] @ weight.T).numpy()
        if with_bias:
            a, residual = a - a.mean(0), residual - residual.mean(0)
        size = (a**2).sum(0).mean()
        change = np.linalg.solve(a.T @ a + damping * size * np.eye(23), a.T @ residual).T
        new = weight.numpy() + change
        shift = (y[rows].numpy() - x[rows].numpy() @ new.T).mean(0) if with_bias else 0.0
        return new, shift

    def error(damping):
        new, shift = solved(slice(0, 71), damping)
        return ((y[71:].numpy() - x[71:].numpy() @ new.T - shift) ** 2).sum()

    errors = {damping: error(damping) for damping in DAMPING}
    new, shift = refit(*parts, weight, bias)
    matching = [damping for damping in DAMPING if np.allclose(new, solved(slice(0, 97), damping)[0], rtol=1e-7)]
    assert len(matching) == 1
    assert errors[matching[0]] <= 1.01 * min(errors.values())
    assert errors[matching[0]] < 0.97 * min(errors[DAMPING[0]], errors[DAMPING[-1]])
    assert (shift is not None) == with_bias
    if with_bias:
        np.testing.assert_allclose(shift, solved(slice(0, 97), matching[0])[1], rtol=1e-7, atol=1e-9)


def test_refit_keeps_weights_that_nothing_improves(data):
    x, y, _, weight, bias = data
    fit = Moments.of(x, y)
    held = Moments.of(x, x @ weight.T + bias)  # on held-out rows the present weights are perfect
    new, shift = refit(fit, held, weight, bias)
    assert torch.equal(new, weight)
    assert torch.equal(shift, bias)


@pytest.mark.parametrize("x", [torch.zeros(13, K), torch.ones(13, K), torch.arange(13.0)[:, None].expand(13, K)])
def test_a_singular_gram_matrix_is_damped(data, x):
    *_, weight, bias = data
    x = x.double()
    y = torch.arange(13.0 * OUT, dtype=torch.float64).reshape(13, OUT)
    new, shift = refit(Moments.of(x, y), nothing(), weight, bias)
    assert new.isfinite().all()
    before, after = (y - x @ weight.T - bias).square().sum(), (y - x @ new.T - shift).square().sum()
    assert after < before


def test_moments_of_parts_add_up_to_those_of_the_whole(data):
    x, y, w, *_ = data
    whole, parts = Moments.of(x, y, w), Moments.of(x[:17], y[:17], w[:17]) + Moments.of(x[17:], y[17:], w[17:])
    for name in ("n", "x", "y", "xx", "xy", "yy"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), rtol=1e-12, atol=1e-12)


def test_the_error_is_that_of_the_rows(data):
    x, y, w, weight, bias = data
    expected = (w * (y - x @ weight.T - bias).square().sum(1)).sum()
    torch.testing.assert_close(Moments.of(x, y, w).error(weight, bias), expected)


def test_recentre_gives_output_and_target_the_same_mean(data):
    x, y, w, weight, bias = data
    shift = recentre(Moments.of(x, y, w), weight, bias)
    torch.testing.assert_close(w @ (x @ weight.T + shift), w @ y)
    assert recentre(Moments.of(x, y, w), weight, None) is None


def test_rescale_is_least_squares_over_what_each_head_adds(data):
    x, y, w, weight, bias = data
    owner = torch.tensor([0, 1, 0, 2, 2, 1, 0])
    adds = torch.stack([x[:, owner == head] @ weight[:, owner == head].T for head in range(3)], dim=-1)
    root = w.sqrt().numpy()[:, None]
    rows = (root * adds.flatten(1).numpy()).reshape(ROWS * OUT, 3)
    strength = np.sqrt(DAMPING_UNTRIED * (rows**2).sum() / 3)
    rows = np.vstack([rows, strength * np.eye(3)])
    targets = np.concatenate([(root * (y - bias).numpy()).ravel(), strength * np.ones(3)])
    factors = torch.from_numpy(np.linalg.lstsq(rows, targets, rcond=None)[0])
    scaled = rescale(Moments.of(x, y, w), nothing(), weight, bias, owner)
    torch.testing.assert_close(scaled, weight * factors[owner])


@pytest.mark.parametrize("with_bias", [True, False])
def test_inputs_that_do_not_vary_are_solved_all_the_same(with_bias):
    """About their mean nothing is left but rounding, which has no definite sign."""
    x, y = torch.full((ROWS, K), 0.1, dtype=torch.float64), torch.full((ROWS, OUT), 3.0, dtype=torch.float64)
    weight, bias = torch.zeros(OUT, K, dtype=torch.float64), torch.zeros(OUT, dtype=torch.float64)
    given = bias if with_bias else None
    found, shift = refit(Moments.of(x, y), nothing(), weight, given)
    outputs = x @ found.T + (0.0 if shift is None else shift)
    torch.testing.assert_close(outputs, y, rtol=0.02, atol=0)  # without a bias the damping keeps a share of the error
