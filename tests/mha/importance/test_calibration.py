"""What criteria are given: nothing that it says changes behind one's back."""

import pytest
import torch

import mha
from mha.importance import Calibration
from mha.importance.running.journal import Journal
from mha.values.errors import CalibrationError

LAYERS = {"plain": 7, "grouped": 10, "cross": 3}


@pytest.fixture
def calibration(model, batches, loss):
    return Calibration(model, mha.find_attention(model), batches, loss, seed=3)


def test_positions_are_of_the_heads_that_are_left(model, batches, loss):
    pruned = mha.prune(model, mha.HeadPlan({"plain": (2, 5), "cross": ()}))
    calibration = Calibration(pruned, mha.find_attention(pruned), batches, loss, seed=0)
    assert calibration.present() == [("plain", 0), ("plain", 1), *(("grouped", position) for position in range(10))]
    assert {name: tuple(row.shape) for name, row in calibration.zeros().items()} == {
        "plain": (2,),
        "grouped": (10,),
        "cross": (0,),
    }
    assert list(calibration.with_heads) == ["plain", "grouped"]


def test_masked_heads_are_another_calibration(calibration):
    first = torch.rand(5, generator=calibration.generator)
    masked = calibration.without({"plain": [0, 3], "cross": [0, 1, 2]})
    assert len(calibration.present()) == 20
    assert len(masked.present()) == 15
    assert torch.equal(torch.rand(5, generator=masked.generator), first)  # starts again from the seed
    assert masked.meter is calibration.meter
    assert masked.key("loss") != calibration.key("loss") == calibration.without({}).key("loss")
    noted = masked.noted_in(Journal(None, {}))
    assert noted.present() == masked.present()
    assert noted.journal is not masked.journal


def test_numbers_of_the_present_heads_are_told_by_layer(calibration):
    masked = calibration.without({"plain": [0, 3], "cross": [0, 1, 2]})
    rows = masked.by_layer(torch.arange(15.0), masked=-1.0)
    assert rows["plain"].tolist() == [-1, 0, 1, -1, 2, 3, 4]
    assert rows["grouped"].tolist() == list(range(5, 15))
    assert rows["cross"].tolist() == [-1, -1, -1]


def test_what_a_pass_finds_out_is_what_it_returns(calibration, batches, loss):
    batch, short = (next(b for b in calibration.each_batch() if b.number == number) for number in (0, 2))
    before = dict(vars(batch))
    whole, off = batch.loss(), batch.loss({"plain": torch.zeros(7)})
    assert vars(batch) == before
    assert whole.value.item() == loss(calibration.model, batches[0]).item() != off.value.item()
    assert [whole.examples, off.examples, short.loss().examples] == [7, 7, 5]
    assert whole.rows == {name: frozenset({7}) for name in LAYERS}
    half = batch.holding(tuple(part[:3] for part in batch.content))
    assert (half.loss().examples, half.number, batch.loss().examples) == (3, 0, 7)
    with pytest.raises(AttributeError):
        batch.number = 3


def test_the_mean_loss_is_over_examples(calibration, batches, loss):
    losses = [loss(calibration.model, batch).item() for batch in batches]
    expected = sum(value * len(batch[0]) for value, batch in zip(losses, batches, strict=True)) / 19
    assert calibration.mean_loss() == pytest.approx(expected, rel=1e-12)


def test_a_set_that_changes_its_length_is_refused(model, batches, loss):
    calibration = Calibration(model, mha.find_attention(model), growing := list(batches[:1]), loss, seed=0)
    calibration.mean_loss()
    growing.append(batches[1])
    with pytest.raises(CalibrationError, match="batches gave 1 batches when read first, and 2 when read again"):
        calibration.mean_loss()
    assert calibration.without({}).mean_loss()  # which reads them for the first time
