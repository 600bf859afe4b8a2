"""A scoring that is cut short goes on where it was, and gives what it would have given; nothing foreign is mixed in."""

import json
from functools import partial

import pytest
import torch

import mha
from mha.importance.running import journal
from mha.values.errors import CalibrationError
from tests.mha.support.losses import loss_of
from tests.mha.support.models import Reader

SLOW = {
    "leave-one-out": {"criterion": "leave_one_out"},
    "whole passes": {"criterion": "leave_one_out", "reuse": False},
    "shapley": {"criterion": "shapley", "max_permutations": 2, "min_permutations": 2},
    "rounds": {"criterion": "taylor", "rounds": 5},
    "leave-one-out in rounds": {"criterion": "leave_one_out", "rounds": 3},
}


class Killed(BaseException):
    """No `except Exception` holds it up."""


class Counted:
    """The loss, until it has been asked for so often."""

    __qualname__ = "counted"

    def __init__(self, most):
        self.most, self.calls = most, 0

    def __call__(self, model, batch):
        self.calls += 1
        if self.calls > self.most:
            raise Killed
        return loss_of(model, batch)


@pytest.fixture
def few(batches):
    return [tuple(part[:3] for part in batch) for batch in batches[:2]]


@pytest.mark.parametrize("how", SLOW)
def test_it_goes_on_after_a_kill(model, few, tmp_path, how, monkeypatch):
    monkeypatch.setattr(journal, "EVERY", 0.0)
    score = partial(mha.score, model, few, **SLOW[how])
    whole = Counted(10**9)
    expected = score(whole)
    first, file = Counted(whole.calls * 2 // 3), tmp_path / "scores.journal"
    with pytest.raises(Killed):
        score(first, journal=file)
    second = Counted(10**9)
    assert score(second, journal=file) == expected
    assert second.calls < whole.calls * 2 // 3
    third = Counted(10**9)
    assert score(third, journal=file) == expected
    assert third.calls == 1  # the first batch, to compare its loss


def test_what_it_depends_on_is_compared(model, few, tmp_path):
    file = tmp_path / "scores.journal"
    mha.score(model, few, loss_of, "leave_one_out", journal=file)
    other = Reader().double().eval()
    half = lambda model, batch: loss_of(model, batch) / 2  # noqa: E731
    half.__qualname__ = loss_of.__qualname__
    half.__module__ = loss_of.__module__
    for arguments, options, what in (
        ((other, few, loss_of, "leave_one_out"), {}, "model"),
        ((model, few[::-1], loss_of, "leave_one_out"), {}, "set of batches and another loss of the first batch"),
        ((model, few, loss_of, "leave_one_out"), {"reuse": False}, "options"),
        ((model, few, loss_of, "leave_one_out"), {"seed": 1}, "seed"),
        ((model, few, loss_of, "leave_one_out"), {"rounds": 2}, "rounds"),
        ((model, few, loss_of, "taylor"), {}, "criterion"),
        ((model, few, half, "leave_one_out"), {}, "loss of the first batch"),
        ((model, few, Counted(9), "leave_one_out"), {}, "loss function"),
        ((mha.prune(model, mha.HeadPlan({"plain": (0,)})), few, loss_of, "leave_one_out"), {}, "model"),
    ):
        with pytest.raises(CalibrationError, match=f"is the journal of another scoring: it has another {what}"):
            mha.score(*arguments, journal=file, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "mha.score journal", "ver', "not the journal of a scoring, or cut off in the middle"),
        ('{"format": "mha.HeadPlan", "version": 1}', "not the journal of a scoring: expected a JSON object"),
        ('{"format": "mha.score journal", "version": 1}', "nothing says what it is of"),
    ],
)
def test_a_file_that_is_no_journal_is_refused(model, few, tmp_path, text, message):
    file = tmp_path / "scores.journal"
    file.write_text(text)
    with pytest.raises(CalibrationError, match=message):
        mha.score(model, few, loss_of, "leave_one_out", journal=file)
    assert file.read_text() == text


def test_replays_that_turn_out_wrong_leave_nothing_in_the_journal(model, few, tmp_path, monkeypatch):
    """A kill while the passes are made anew: what the replays had given must be gone by then."""
    monkeypatch.setattr(journal, "EVERY", 0.0)
    checks = []

    def check(_record):
        checks.append(1)
        if len(checks) == 2:  # the first one is when the record is complete, the second when all layers are through
            raise RuntimeError("changed")

    monkeypatch.setattr("mha.importance.running.record.Recorder.check", check)
    file = tmp_path / "scores.journal"
    read = []

    def loss(model, batch):
        if file.exists():
            read.append(len(json.loads(file.read_text())["measured"]))
        return loss_of(model, batch)

    mha.score(model, few[:1], loss, "leave_one_out", journal=file)
    assert max(read) == 2  # of three layers: the third one's is read when it is through, by the replays that are wrong
    dropped = read.index(0, read.index(2))
    assert sorted(read[dropped:]) == read[dropped:]
    assert read[-1] == 2


def test_batches_that_can_not_be_compared_are_refused(model, few, tmp_path):
    with pytest.raises(CalibrationError, match="journal: a object in the batches or options can't be compared"):
        mha.score(model, [(*batch, object()) for batch in few], loss_of, journal=tmp_path / "journal")


def test_a_digest_tells_contents_apart():
    values = [
        torch.zeros(2, 3),
        torch.zeros(3, 2),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(2, 3).numpy(),
        [torch.zeros(2, 3)],
        {"a": torch.zeros(2, 3)},
        {"b": torch.zeros(2, 3)},
        [[1], 2],
        [1, [2]],
        [1, 2],
        [1, 2.0],
        ["1", "2"],
        ["12"],
        None,
        torch.zeros(()),
        torch.zeros(0, 2),
    ]
    assert len({journal.content_of(value) for value in values}) == len(values)
    assert journal.content_of([torch.ones(4, 2).T]) == journal.content_of([torch.ones(2, 4)])
