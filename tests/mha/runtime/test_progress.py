"""What long calls show on stderr: what they do and how much of it is done; and that they compute the same with it."""

import re
from itertools import pairwise

import pytest

import mha
from mha.runtime.memory import STATUS
from mha.runtime.progress import Bar, called
from tests.mha.support.losses import loss_of

PLAN = mha.HeadPlan({"plain": (0, 2, 3), "grouped": (0, 1, 6, 7), "cross": (1,)})


def forward(model, batch):
    return model(*batch[:2])


@pytest.fixture
def batches(batches):
    return [tuple(part[:3, :7] if part.dim() > 1 else part[:3] for part in one) for one in batches[:2]]


def values(model):
    return {name: value.tolist() for name, value in model.state_dict().items()}


CALLS = {
    "compensate": lambda model, batches, progress: values(
        mha.compensate(mha.prune(model, PLAN), model, batches, forward, progress=progress)
    ),
    "distill": lambda model, batches, progress: values(
        mha.distill(mha.prune(model, PLAN), model, batches, forward, steps=3, progress=progress)
    ),
    "shrink": lambda model, batches, progress: values(
        mha.shrink(model, batches, loss_of, forward, keep=0.5, rounds=2, progress=progress)
    ),
    "shrink by a criterion": lambda model, batches, progress: values(
        mha.shrink(model, batches, loss_of, forward, criterion="taylor", keep=0.5, progress=progress)
    ),
    "measure_costs": lambda model, batches, progress: set(
        mha.measure_costs(model, batches[0][:2], seconds=1e-3, progress=progress).layers
    ),
}
SHOWN = {
    "compensate": ["compensate, reading the dense model", "compensate, grouped.W_o"],
    "distill": ["distill, judging on held-out batches", "distill, training"],
    "shrink": [
        *("shrink 1 of 4, read the model", "shrink 2 of 4, repair, cross.W_o"),
        *("shrink 3 of 4, read the model", "shrink 4 of 4, repair, cross.W_o"),
    ],
    "shrink by a criterion": ["shrink 1 of 2, score", "shrink 2 of 2, repair, plain.W_o"],
    "measure_costs": ["measure_costs, preparing layers", "measure_costs, round 8"],
}


def frames(text):
    """Each frame of the bars, as (what is being done, %)."""
    return [(what, int(percent)) for what, percent in re.findall(r"([^\r\n]+?): +(\d+)%\|", text)]


@pytest.mark.parametrize("call", CALLS)
def test_a_bar_tells_what_is_done_and_changes_nothing(model, batches, capfd, call):
    quiet = [CALLS[call](model, batches, progress) for progress in (False, None)]  # stderr is no terminal here
    assert capfd.readouterr() == ("", "")
    assert [CALLS[call](model, batches, True)] * 2 == quiet
    out, err = capfd.readouterr()
    assert out == ""
    seen = frames(err)
    assert [what for what in SHOWN[call] if what not in dict(seen)] == []
    assert seen[-1][1] == 100


def test_each_step_of_shrink_ends_at_100_percent(model, batches, capfd):
    CALLS["shrink"](model, batches, True)
    last = {re.match(r"shrink \d", what)[0]: percent for what, percent in frames(capfd.readouterr().err)}
    assert set(last.values()) == {100}
    assert last.keys() >= {f"shrink {step}" for step in (1, 2, 3, 4)}


@pytest.mark.parametrize("call", [call for call in CALLS if call != "shrink"])
def test_unless_told_a_bar_appears_on_a_terminal_when_the_work_takes_long(model, batches, capfd, monkeypatch, call):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("mha.runtime.progress.SILENT_SECONDS", 3600.0)
    CALLS[call](model, batches, None)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("mha.runtime.progress.SILENT_SECONDS", 0.0)
    CALLS[call](model, batches, None)
    assert call.partition(" ")[0] in capfd.readouterr().err


def test_a_bar_does_not_go_back_in_compensate_and_distill(model, batches, capfd):
    """There is one correction, when it is known which layers are fitted again."""
    for call in ("compensate", "distill"):
        CALLS[call](model, batches, True)
        percents = [percent for _, percent in frames(capfd.readouterr().err)]
        drops = [(one, other) for one, other in pairwise(percents) if other < one]
        assert len(drops) <= (call == "compensate"), percents


def test_calls_that_fail_are_counted_and_the_bar_of_what_failed_does_not_say_that_all_is_done(capfd):
    def fails():
        raise ValueError("of the caller")

    bar = Bar("work", progress=True)
    bar.expect(4)
    with pytest.raises(ValueError, match="of the caller"), bar.shown():
        bar.counting(fails)()
    assert bar.done == 1
    assert 100 not in dict(frames(capfd.readouterr().err)).values()


def test_a_title_from_outside_holds_within_its_context_only():
    with called("outer"):
        with called("inner"):
            assert Bar("own").title == "inner"
        assert Bar("own").title == "outer"
    assert Bar("own").title == "own"


def test_over_counts_an_item_when_the_next_is_asked_for():
    bar, done = Bar(), []
    assert [done.append(bar.done) or item for item in bar.over("abc", 0.5)] == ["a", "b", "c"]
    assert done == [0, 0.5, 1]
    assert bar.done == 1.5


def test_shares_that_add_up_to_a_little_more_than_all_are_all(capfd):
    bar = Bar("work", progress=True)
    bar.expect(2)
    with bar.shown():
        bar.advance(2.1)
        bar.doing("the last of it")  # shows the bar; tqdm would warn
    assert bar.done == 2.1
    assert frames(capfd.readouterr().err)[-1] == ("work, the last of it", 100)


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not tell a process's memory in /proc")
def test_the_memory_of_the_process_is_shown(capsys):
    bar = Bar("work", True)
    bar.expect(2)
    with bar.shown():
        bar.advance()
        bar.doing("a part")
    assert re.search(r"work, a part: +50%\|.*left, \d+\.\d GiB", capsys.readouterr().err)
