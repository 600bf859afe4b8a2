"""What the gate measures next, on made-up rounds."""

import random
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from bench.regress.injecting import KINDS, slowed
from bench.regress.measuring import AGAIN, SCREEN, GateOptions, GateRounds, next_round, wanted_rounds
from bench.regress.rounds import CONTROL_NAME, two_turns
from bench.regress.simulating import exchanged, rate, simulated, tally, with_contrasts
from bench.regress.simulating import slowed as slowed_round
from bench.regress.verdict_rows import doubts, rows_of, short
from bench.regress.workers import Arm

FILE = "bench/regress/bench_gate.py::test_forward"
NAMES = (f"{FILE}[dense-4x64]", f"{FILE}[grouped-4x64]", f"{FILE}[half-4x64]")
TURNS = 8


def a_round(seed, phase=SCREEN, names=NAMES, slower=(), noise=0.01, errors=None, load=0.02):
    """Times of 3 ms, in the head of these benchmarks 20 % more."""
    chance = random.Random(seed)
    seconds = {
        name: {
            f"{arm}-{number}": [
                0.003 * (1.2 if arm == "head" and name in slower else 1.0) * chance.lognormvariate(0, noise)
                for _ in range(TURNS)
            ]
            for arm in ("base", "head")
            for number in range(2)
        }
        for name in (*names, CONTROL_NAME)
    }
    spent = dict.fromkeys((*names, CONTROL_NAME), 1.0) | {"": 6.0}
    took = sum(spent.values())
    found = {"seconds": seconds, "spent": spent, "phase": phase, "took": took, "load": load, "beside": {}}
    return with_contrasts({**found, "errors": errors or {"base": {}, "head": {}}})


def rounds(count, phase=SCREEN, **how):
    return tuple(a_round(seed + 100 * (phase == AGAIN), phase, **how) for seed in range(count))


def test_rounds_are_so_many_that_a_p_can_pass_the_adjustment():
    assert [wanted_rounds(m, 0.05) for m in (1, 12, 13, 26, 1000)] == [8, 8, 9, 10, 15]


def test_a_first_look_is_at_everything():
    assert next_round(GateRounds(()), GateOptions()) == (SCREEN, None)
    assert next_round(GateRounds(rounds(7)), GateOptions()) == (SCREEN, None)


def test_nothing_more_where_all_is_decided():
    assert next_round(GateRounds(rounds(8)), GateOptions()) is None


def test_a_second_look_of_twice_as_many_rounds_at_what_looks_like_a_change():
    screened = rounds(8, slower=NAMES[:1])
    for done in (0, 1, 15):
        again = rounds(done, AGAIN, slower=NAMES[:1])
        assert next_round(GateRounds((*screened, *again)), GateOptions()) == (AGAIN, NAMES[:1])
    assert next_round(GateRounds((*screened, *rounds(16, AGAIN, slower=NAMES[:1]))), GateOptions()) is None


def test_more_of_what_is_too_noisy_to_tell_as_long_as_there_is_time():
    noisy = GateRounds((*rounds(8, noise=0.9), *rounds(16, AGAIN, noise=0.9)))
    assert next_round(noisy, GateOptions(budget=10_000)).phase == AGAIN
    assert next_round(noisy, GateOptions(budget=noisy.took + 5)) is None


def test_the_budget_ends_it_and_the_verdict_says_so():
    options = GateOptions(budget=55)  # a round takes 10 s
    assert next_round(GateRounds(rounds(4)), options) == (SCREEN, None)
    assert next_round(GateRounds(rounds(5)), options) is None
    (why,) = doubts(GateRounds(rounds(5)), options, cores=2)
    assert why.startswith("The time budget of 55 s ended after 5 of 8 rounds; a round of all 3 benchmarks takes 10 s")


def test_a_change_that_could_not_be_confirmed_is_inconclusive():
    measured = GateRounds((*rounds(8, slower=NAMES[:1]), *rounds(10, AGAIN, slower=NAMES[:1])))
    rows = {row["name"]: row for row in rows_of(measured, GateOptions())}
    assert rows["dense-4x64"]["verdict"] == "INCONCLUSIVE"
    assert (
        "in the first look, but the time ended after 10 of the 16 rounds that confirm it" in rows["dense-4x64"]["why"]
    )
    assert rows["half-4x64"]["verdict"] == "PASS"


def test_a_confirmed_change_with_both_looks():
    measured = GateRounds((*rounds(8, slower=NAMES[:1]), *rounds(16, AGAIN, slower=NAMES[:1])))
    row = next(row for row in rows_of(measured, GateOptions()) if row["name"] == "dense-4x64")
    assert (row["verdict"], row["rounds"], row["screen"]["rounds"]) == ("REGRESSED", 16, 8)
    assert row["effect"] == pytest.approx(0.2, abs=0.01)
    assert row["head"] / row["base"] == pytest.approx(1.2, abs=0.01)


def test_benchmarks_that_cannot_be_compared():
    new, broken, both, newer, gpu, lost = (
        f"{FILE}[{name}]" for name in ("new", "broken", "both", "newer", "gpu", "lost")
    )
    errors = {
        "base": {new: "TypeError: no such argument", both: "ValueError: no"},
        "head": {broken: "RuntimeError: shapes", both: "ValueError: no"},
    }
    skipped = {
        "base": {newer: "needs mha.newer", gpu: "needs a GPU"},
        "head": {lost: "needs mha.older", gpu: "needs a GPU"},
    }
    records = []
    for record in rounds(8, errors=errors):
        seconds = dict(record["seconds"])
        seconds |= {name: {arm: [0.001] * TURNS for arm in ("head-0", "head-1")} for name in (new, newer)}
        seconds |= {name: {arm: [0.001] * TURNS for arm in ("base-0", "base-1")} for name in (broken, lost)}
        records.append(with_contrasts({**record, "seconds": seconds, "skipped": skipped}))
    gone = "bench/regress/bench_gate.py::test_old"
    rows = {
        row["name"]: (row["verdict"], row["why"]) for row in rows_of(GateRounds(tuple(records)), GateOptions(), [gone])
    }
    assert rows["new"] == ("NEW", "the base can't run it: TypeError: no such argument")
    assert rows["broken"] == ("ERROR", "it fails on the head alone: RuntimeError: shapes")
    assert rows["both"] == ("ERROR", "it fails on both sides: ValueError: no")
    assert rows["newer"] == ("NEW", "the base skips it: needs mha.newer")
    assert rows["gpu"] == ("SKIPPED", "it is skipped: needs a GPU")
    assert rows["lost"] == ("ERROR", "the head skips it, and the base does not: needs mha.older")
    assert rows["test_old"][0] == "ERROR"
    assert rows["test_old"][1].startswith("only the base has it")
    assert rows["dense-4x64"][0] == "PASS"


def test_other_work_on_the_machine_is_a_doubt():
    assert doubts(GateRounds(rounds(8, load=0.49)), GateOptions(), cores=2) == []
    (why,) = doubts(GateRounds(rounds(8, load=0.51)), GateOptions(), cores=2)
    assert why.startswith("Other work used 0.51 cores on average; up to 0.50 is quiet enough here")


def test_a_control_that_moved_is_a_doubt():
    (why,) = doubts(GateRounds(rounds(8, slower=[CONTROL_NAME])), GateOptions(), cores=2)
    assert why.startswith("The control workload, which no change to mha can touch, moved by +")


@dataclass(eq=False)
class Process:
    arm: Arm
    number: int


def test_no_order_favours_an_arm_and_no_process_comes_twice_in_a_row():
    arms = [Arm(name, Path(), Path()) for name in ("base", "head")]
    processes = [Process(arm, number) for arm in arms for number in range(2)]
    chance, last, firsts = random.Random(0), None, Counter()
    for _ in range(400):
        one, two = two_turns(processes, last, chance)
        assert set(map(id, one)) == set(map(id, two)) == set(map(id, processes))
        for turn in (one, two):
            assert [each.arm for each in turn] == [each.arm for each in reversed(turn)]  # a, b, b, a
        assert one[0].arm != two[0].arm
        sequence = [last, *one, *two]
        assert all(before is not after for before, after in pairwise(sequence))
        last = two[-1]
        firsts[one[0].arm.name, one[0].number] += 1
    assert all(70 < count < 130 for count in firsts.values())
    assert len(firsts) == 4


def test_a_benchmark_that_only_one_side_has_takes_turns_too():
    head = [Process(Arm("head", Path(), Path()), number) for number in range(2)]
    one, two = two_turns(head, None, random.Random(0))
    assert set(map(id, one)) == set(map(id, two)) == set(map(id, head))


def test_simulated_runs_pass_without_a_change_and_find_a_large_one():
    pool = [each for record in rounds(20) for each in (record, with_contrasts(exchanged(record)))]
    assert tally(pool, 10) == {"PASS": 10}
    for kind in ("layer", "constant", "noise"):
        assert tally([slowed_round(each, kind, 0.2, 0) for each in pool], 5) == {"REGRESSED": 5}
    assert simulated(pool, random.Random(0), GateOptions(budget=20)) == "INCONCLUSIVE"


def test_an_exchange_turns_effects_around():
    record = a_round(0, slower=NAMES[:1])
    for name, (effect, _) in with_contrasts(exchanged(record))["contrasts"].items():
        assert effect == pytest.approx(-record["contrasts"][name].effect)


def test_rates_have_exact_intervals():
    assert rate(0, 20) == (0, 20, 0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert str(rate(19, 20)).startswith("95.0% [75.1%, 99.9%]")


def plus_one(layer, x):  # noqa: ARG001
    return x + 1


@pytest.mark.parametrize(("kind", "added"), [("nothing", 0.0), ("constant", 0.5 * 0.004), ("layer", 0.5)])
def test_what_is_put_in_takes_the_time_it_says(kind, added, monkeypatch):
    now = iter([1.0, 2.0, *[2.0 + step / 1000 for step in range(2000)]])
    monkeypatch.setattr("bench.regress.injecting.time.perf_counter", lambda: next(now))

    class Layer:
        num_heads, num_kv_heads = 8, 2

    assert slowed(plus_one, KINDS[kind], 0.5)(Layer(), 1) == 2
    assert next(now) == pytest.approx(2.0 + added, abs=0.0025)


def test_short_names():
    assert short(f"{FILE}[dense-4x64]") == "dense-4x64"
    assert short("bench_mine.py::test_mine") == "test_mine"
