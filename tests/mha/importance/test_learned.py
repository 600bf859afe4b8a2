"""Shapley values and learned gates, against enumeration, arithmetic, and models whose truth is planted."""

import itertools
import math

import pytest
import torch
from torch import nn

import mha
from mha.importance.criteria import hard_concrete, shapley
from mha.importance.criteria.subset import relaxed_choice
from mha.importance.running.learning import Adam
from tests.mha.support.losses import attention_error
from tests.mha.support.models import BATCHES, X, additive


def exact_shapley(columns):
    """By all orders; the loss with the set S of heads is (1 - Σ_S c)² E[x²]."""
    mean = float(X.square().mean())

    def loss(left):
        return (1 - sum(columns[i] for i in left)) ** 2 * mean

    values = torch.zeros(len(columns), dtype=torch.float64)
    orders = list(itertools.permutations(range(len(columns))))
    for order in orders:
        left = set(range(len(columns)))
        for head in order:
            values[head] += (loss(left - {head}) - loss(left)) / len(orders)
            left.remove(head)
    return values


COLUMNS = [0.7, 0.3, -0.2, 0.0, 0.2]


def test_shapley_values_are_those_of_all_orders():
    scores = mha.score(
        additive(COLUMNS), BATCHES, attention_error, "shapley", max_permutations=400, min_permutations=400
    )
    expected, error = exact_shapley(COLUMNS), scores.errors[""]
    assert ((scores.scores[""] - expected).abs() < 4 * error + 1e-12).all()
    assert (error < 0.02).all()
    assert scores.scores[""][3] == 0
    assert scores.scores[""][2] < 0
    assert scores.scores[""].sum().item() == pytest.approx(float(X.square().mean()), abs=1e-12)  # none less dense
    assert scores.examples is None


def test_standard_errors_are_the_spread_of_repeated_estimates():
    found = [
        mha.score(additive(COLUMNS), [X], attention_error, "shapley", seed=seed, max_permutations=8)
        for seed in range(40)
    ]
    spread = torch.stack([scores.scores[""] for scores in found]).std(dim=0)
    said = torch.stack([scores.errors[""].square() for scores in found]).mean(dim=0).sqrt()
    torch.testing.assert_close(said, spread, rtol=0.4, atol=1e-12)


def test_shapley_stops_when_no_rank_is_in_doubt():
    """Heads that do not interact have no variance; two that are alike can never be told apart."""

    def linear(model, x):
        return -model(x.abs(), x.abs(), x.abs()).mean()

    clear = mha.score(additive([0.5, 0.25, 0.1]), BATCHES, linear, "shapley", max_permutations=50, min_permutations=3)
    assert clear.spent.forward == 2 * (2 + 3 * 2)  # dense, empty, and three orders of three heads, the last one known
    alike = mha.score(additive([0.5, 0.5, 0.1]), BATCHES, linear, "shapley", max_permutations=5, min_permutations=3)
    assert alike.spent.forward == 2 * (2 + 5 * 2)


def test_truncation_leaves_out_what_is_left_when_the_loss_is_that_of_no_head():
    options = {"max_permutations": 20, "min_permutations": 20}
    whole = mha.score(additive([1.0, 0.001, 0.001, 0.001]), [X], attention_error, "shapley", **options)
    cut = mha.score(additive([1.0, 0.001, 0.001, 0.001]), [X], attention_error, "shapley", truncation=0.02, **options)
    torch.testing.assert_close(cut.scores[""], whole.scores[""], rtol=0, atol=0.01)
    assert cut.spent.forward < 0.8 * whole.spent.forward


@pytest.mark.parametrize("bound", ["normal", "bernstein"])
def test_intervals_hold_as_often_as_they_say(bound):
    """Means of 40 samples of a skewed distribution, for 5 heads together."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(400, 40, 5, generator=generator, dtype=torch.float64).square()
    held = [
        ((row.mean(0) - 1 / 3).abs() <= shapley.half_widths(row, 0.9, bound)).all().item() for row in draws.unbind()
    ]
    assert 0.85 <= sum(held) / len(held) <= 1.0
    wide, narrow = (shapley.half_widths(draws[0], level, bound) for level in (0.99, 0.5))
    assert (wide > narrow).all()


def test_bernsteins_bound_by_hand():
    samples = torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0]], dtype=torch.float64)
    log = math.log(4 / 0.1)
    expected = math.sqrt(2 * 0.3 * log / 5) + 7 * log / (3 * 4)
    assert shapley.half_widths(samples, 0.9, "bernstein").item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_permutations": 1}, "max_permutations and min_permutations are 2 or more; got 1 and 8"),
        ({"confidence": 1.0}, "confidence is between 0 and 1, got 1.0"),
        ({"bound": "hoeffding"}, """bound is "normal" or "bernstein", got 'hoeffding'"""),
        ({"truncation": 1.0}, "truncation is a share, 0 or more and below 1; got 1.0"),
    ],
)
def test_options_of_shapley_that_are_wrong(options, message):
    with pytest.raises(mha.MhaError, match=message):
        mha.score(additive(COLUMNS), BATCHES, attention_error, "shapley", **options)


def test_hard_concrete_gates_are_open_as_often_as_their_probability():
    log_alpha = torch.tensor([-2.0, -0.5, 0.0, 1.5], dtype=torch.float64)
    noise = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gates = hard_concrete.sampled(log_alpha, noise)
    torch.testing.assert_close(
        (gates > 0).double().mean(dim=0), hard_concrete.probability_open(log_alpha), rtol=0, atol=0.01
    )
    assert gates.min() == 0
    assert gates.max() == 1
    half = hard_concrete.sampled(torch.zeros(1), torch.tensor([0.5]))  # σ(0) = 1/2, stretched: 1.2/2 - 0.1
    assert half.item() == pytest.approx(0.5)


@pytest.mark.parametrize("wanted", [0.01, 2.0, 3.96])
def test_the_shift_makes_the_number_of_open_gates_the_one_wanted(wanted):
    log_alpha = torch.tensor([-9.0, -0.5, 0.0, 14.0])
    moved = log_alpha + hard_concrete.shift(log_alpha, wanted)
    assert hard_concrete.probability_open(moved).sum().item() == pytest.approx(wanted, rel=1e-4)


def test_relaxed_choice_is_the_choice_at_a_low_temperature():
    keys = torch.tensor([0.3, 2.0, -1.0, 1.0, 0.9], dtype=torch.float64)
    torch.testing.assert_close(
        relaxed_choice(keys, 3, 0.01), torch.tensor([0.0, 1, 0, 1, 1], dtype=torch.float64), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(relaxed_choice(keys, 1, 0.7), (keys / 0.7).softmax(0))
    warm = relaxed_choice(keys, 3, 1.0)
    assert warm.sum().item() == pytest.approx(3)
    assert warm.argsort().tolist() == keys.argsort().tolist()
    first = keys.softmax(0)
    second = (keys + (1 - first).log()).softmax(0)
    torch.testing.assert_close(relaxed_choice(keys, 2, 1.0), first + second)


@pytest.mark.parametrize("criterion", ["hard_concrete", "subset"])
def test_learned_gates_find_the_heads_that_are_needed(criterion):
    """Heads 1 and 4 together give the input back; the others disturb, or do nothing."""
    model = additive([0.0, 0.5, 0.8, -0.7, 0.5, 0.0])
    scores = mha.score(model, BATCHES, attention_error, criterion, heads=2, epochs=150, learning_rate=0.1)
    assert mha.choose(scores, heads=2).keep[""] == (1, 4)


def test_hard_concrete_ends_with_the_number_of_gates_wanted():
    scores = mha.score(additive([0.5, 0.5, 0.8, -0.7, 0.1]), BATCHES, attention_error, "hard_concrete", heads=3)
    assert hard_concrete.probability_open(scores.scores[""]).sum().item() == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("criterion", ["hard_concrete", "subset"])
@pytest.mark.parametrize("heads", [0, 5, 2.5, True])
def test_a_number_of_heads_that_cannot_be_left(criterion, heads):
    with pytest.raises(mha.MhaError, match=rf"heads is how many of the 5 heads to leave, from 1 to 4; got {heads}"):
        mha.score(additive(COLUMNS), BATCHES, attention_error, criterion, heads=heads)


def test_adam_is_torchs():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, generator=generator, dtype=torch.float64)
    mine, its = start.clone(), nn.Parameter(start.clone())
    adam, other = Adam({"a": mine}, 0.05), torch.optim.Adam([its], lr=0.05)
    for step in range(30):
        its.grad = torch.randn(7, generator=generator, dtype=torch.float64) * (step % 5)
        adam.step({"a": its.grad})
        other.step()
    torch.testing.assert_close(mine, its.detach())


def test_options_of_learning_that_are_wrong():
    with pytest.raises(mha.MhaError, match=r"temperature is above 0 at the start and at the end, got \(1.0, 0.0\)"):
        mha.score(additive(COLUMNS), BATCHES, attention_error, "subset", temperature=(1.0, 0.0))
    for criterion in ("gate", "hard_concrete", "subset"):
        with pytest.raises(mha.MhaError, match="epochs is 0 or more and learning_rate above 0, got -1 and"):
            mha.score(additive(COLUMNS), BATCHES, attention_error, criterion, epochs=-1)
