"""Several threads: what they find is what each finds alone, and what can't end by waiting ends in an error."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import mha
from mha import HeadPlan
from mha.runtime import locking
from mha.runtime.locking import locked
from mha.values.errors import BusyError
from tests.mha.support.losses import loss_of
from tests.mha.support.models import Reader
from tests.mha.support.untouched import state_of

PLAN = HeadPlan({"plain": (0, 2)})


def until(happens, seconds=20.0):
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not happens() and time.monotonic() < end:
        time.sleep(0.001)
    assert happens()


def waiting():
    """How many calls wait for their turn."""
    return sum(1 for hold in locking._line() if not hold.active)


def side_by_side(first, second):
    """Results of two functions in two threads: the second one begins, and has to wait, while the first is at work.

    Args:
        first: takes a function, to be called somewhere on the way.
    """
    with ThreadPoolExecutor(2) as pool:
        begun = []

        def on_the_way():
            if not begun:
                begun.append(pool.submit(second))
                until(lambda: waiting() == 1)

        return pool.submit(first, on_the_way).result(), begun[0].result()


def told(loss, on_the_way):
    def telling(model, batch):
        on_the_way()
        return loss(model, batch)

    return telling


def noisy(model, batch):
    """A loss that draws from the process's random state."""
    return loss_of(model, batch) * (1 + torch.rand(()))


@pytest.mark.parametrize("criterion", ["leave_one_out", "taylor", "entropy"])
def test_one_model_scored_in_two_threads(model, batches, loss, criterion):
    alone, before = mha.score(model, batches[:1], loss, criterion), state_of(model)
    first, second = side_by_side(
        lambda on_the_way: mha.score(model, batches[:1], told(loss, on_the_way), criterion),
        lambda: mha.score(model, batches[:1], loss, criterion),
    )
    assert first == alone
    assert second == alone
    assert state_of(model) == before


def test_two_models_whose_losses_draw_random_numbers(model, batches):
    other = Reader().double()
    alone = [mha.score(one, batches, noisy, "taylor", seed=5) for one in (model, other)]
    torch.manual_seed(6)
    state = torch.get_rng_state()
    found = side_by_side(
        lambda on_the_way: mha.score(model, batches, told(noisy, on_the_way), "taylor", seed=5),
        lambda: mha.score(other, batches, noisy, "taylor", seed=5),
    )
    assert list(found) == alone
    assert torch.equal(torch.get_rng_state(), state)


def test_a_mask_waits_for_the_scores_of_a_model_that_shares_a_module(model, batches, loss):
    other = nn.ModuleList([model.plain])
    alone = mha.score(model, batches[:1], loss)

    def mask():
        with mha.masked(other, HeadPlan({"0": ()})):
            return mha.find_attention(model)["plain"].core.W_o.weight

    found, _ = side_by_side(lambda on_the_way: mha.score(model, batches[:1], told(loss, on_the_way)), mask)
    assert found == alone


def test_masks_of_different_models_do_not_wait(model):
    other = Reader()
    with ThreadPoolExecutor(1) as pool, mha.masked(model, PLAN):
        assert pool.submit(lambda: mha.check(other.double(), PLAN, batch())).result() <= 1e-10


def batch():
    return torch.ones(2, 3, 5, dtype=torch.float64), torch.ones(2, 3, 17, dtype=torch.float64)


def test_a_thread_may_call_on_what_it_holds(model, batches, loss):
    with mha.masked(model, PLAN):
        first = mha.score(model, batches, loss)
        assert first == mha.score(model, batches, loss)
        assert first.scores["plain"][1] == 0.0
        mha.check(model, HeadPlan({"grouped": (0, 1)}), batch())


def test_those_who_ask_later_wait_longer(model):
    order = []

    def ask(name):
        with locked(model, by=name):
            order.append(name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("a", "b", "c")]
    with locked(model, by="test"):
        for number, thread in enumerate(threads, start=1):
            thread.start()
            until(lambda number=number: waiting() == number)
    for thread in threads:
        thread.join()
    assert order == ["a", "b", "c"]


def test_two_threads_that_wait_for_each_other_end_in_an_error(model):
    other, errors = Reader(), []

    def cross():
        try:
            with mha.masked(other, PLAN):
                until(lambda: waiting() == 1)
                with mha.masked(model, PLAN):
                    pass
        except BusyError as error:
            errors.append(str(error))

    thread = threading.Thread(target=cross, name="crossing")
    with mha.masked(model, PLAN):
        thread.start()
        until(lambda: any(hold.thread is thread for hold in locking._line()))
        with mha.masked(other, PLAN):  # waits, until the other thread has given up
            pass
    thread.join()
    assert len(errors) == 1
    assert errors[0].startswith("mha.masked: the model, or a part of it, is held by mha.masked in thread 'MainThread'")
    assert errors[0].endswith("take both models in one order in all threads")


def test_waiting_for_one_who_waits_elsewhere_ends_in_an_error(model, batches, loss, monkeypatch):
    monkeypatch.setattr(locking, "STUCK", 0.3)
    with ThreadPoolExecutor(1) as pool:
        with mha.masked(model, PLAN):
            scores = pool.submit(mha.score, model, batches, loss)
            with pytest.raises(BusyError, match=r"^mha.score: .* held by mha.masked in thread 'MainThread', which has"):
                scores.result()  # MainThread waits for the one that waits for it
        assert pool.submit(mha.score, model, batches, loss).result() == mha.score(model, batches, loss)


def test_waiting_for_a_thread_that_has_ended_ends_in_an_error(model):
    opened = []
    thread = threading.Thread(target=lambda: opened.append(mha.masked(model, PLAN)) or opened[0].__enter__())
    thread.start()
    thread.join()
    with pytest.raises(BusyError, match="has ended within it: leave the context that it opened"):
        mha.prune(model, PLAN)
    opened[0].__exit__(None, None, None)
    mha.prune(model, PLAN)


def test_a_context_that_nobody_has_any_more_holds_nothing(model):
    before = state_of(model)
    threads = [threading.Thread(target=lambda: mha.masked(model, PLAN).__enter__())]
    for thread in threads:
        thread.start()
        thread.join()
    assert mha.check(model, PLAN, batch()) <= 1e-10
    assert state_of(model) == before


def test_contexts_may_end_in_another_order(model):
    before = state_of(model)
    contexts = [mha.masked(model, plan) for plan in (PLAN, HeadPlan({"plain": (), "cross": (1,)}))]
    for context in contexts:
        context.__enter__()
    for context in contexts:
        context.__exit__(None, None, None)
    assert state_of(model) == before


def test_whoever_waits_long_says_so(model, monkeypatch, caplog):
    monkeypatch.setattr(locking, "LOGGED_AFTER", 0.0)
    with ThreadPoolExecutor(1) as pool:
        with locked(model, by="test"):
            pruned = pool.submit(mha.prune, model, PLAN)
            until(lambda: bool(caplog.records))
        pruned.result()
    assert caplog.messages == ["waiting: mha.prune: the model, or a part of it, is held by test in thread 'MainThread'"]


def test_the_stance_of_the_compiler_is_restored_by_the_last_to_leave():
    import torch._dynamo
    from torch._dynamo import eval_frame

    from mha.pruning.masking import nothing_compiled

    torch.compiler.set_stance("eager_on_recompile", skip_guard_eval_unsafe=True)
    own = eval_frame._stance
    contexts = [nothing_compiled() for _ in range(3)]
    try:
        for context in contexts:
            context.__enter__()
        for context in contexts:
            assert eval_frame._stance.stance == "force_eager"
            context.__exit__(None, None, None)
        assert eval_frame._stance == own
    finally:
        torch.compiler.set_stance("default")
