"""The tables at the end of a run, from a run directory written by hand."""

import pytest

from bench.rundir import RunDirectory
from bench.terminal import summary

FACTS = {"metric": "exact match", "batch_size": 3}
WHERE = {"kind": "pruning", "task": "dates", "batch": 3, "device": "cpu"}


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, {}, {"dates": FACTS, "digits": FACTS})


def plan(run, criterion, kept, value, draw=0):
    name = f"dates-{criterion}-{kept}-{draw}"
    sizes = {"kept_fraction": kept, "heads_kept": round(8 * kept), "examples": 1, "values": [value]}
    bounds = {
        "low": value - 0.01,
        "high": value + 0.01,
        "difference_low": value - 1.01,
        "difference_high": value - 0.99,
    }
    with run.plan(plan=name, task="dates", criterion=criterion, draw=draw, **sizes) as record:
        record |= {"value": value, "difference": value - 1.0, **bounds}


def samples(target, baseline, *arms):
    return [
        {"arm": arm, "round": index, "seconds": seconds}
        for index in range(4)
        for arm, seconds in zip(arms, (target, baseline), strict=True)
    ]


def rows(run, start):
    lines = [line for line in summary(run.path) if line.lstrip("│ ").startswith(start)]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_accuracy_and_latency_stand_side_by_side(run):
    plan(run, "dense", 1.0, 1.0)
    plan(run, "taylor", 0.5, 0.75)
    plan(run, "gate", 0.5, 0.5)
    with run.case(case="a", criterion="taylor", kept_fraction=0.5, timed_by="a", **WHERE) as record:
        record["samples"] = samples(0.002, 0.003, "pruned", "dense")
    with run.case(case="b", criterion="gate", kept_fraction=0.5, timed_by="a", **WHERE):
        pass
    run.assemble()
    timing = ["2.00", "3.00", "1.50 [1.50, 1.50]"]
    assert rows(run, "taylor") == [
        ["taylor", "0.5", "4", "0.750 [0.740, 0.760]", "-0.250 [-0.260, -0.240]", *timing],
    ]
    assert rows(run, "gate")[0][5:] == timing
    assert rows(run, "dense")[0] == ["dense", "1", "8", "1.000 [0.990, 1.010]", "+0.000 [-0.010, +0.010]", "", "", ""]
    assert any("exact match" in line for line in summary(run.path))


def test_draws_are_one_row_with_their_spread(run):
    for draw in range(21):
        plan(run, "random", 0.5, draw / 20, draw)
    run.assemble()
    assert rows(run, "random") == [
        ["random × 21", "0.5", "4", "0.500 [0.025, 0.975]", "-0.500 [-0.975, -0.025]", "", "", ""]
    ]


def test_the_bare_layer(run):
    sizes = {"kind": "attention", "task": "attention", "heads_total": 12, "batch": 1, "seq_len": 64, "device": "cpu"}
    with run.case(case="x", kept_fraction=1.0, heads_kept=12, timed_by="x", **sizes) as record:
        record["samples"] = samples(0.004, 0.005, "mha", "torch")
    with run.case(case="y", kept_fraction=0.5, heads_kept=6, timed_by="y", **sizes) as record:
        record["samples"] = samples(0.001, 0.005, "pruned", "dense")
    run.assemble()
    assert rows(run, "mha / torch") == [
        ["mha / torch", "12", "12", "1", "64", "cpu", "4.00", "5.00", "1.25 [1.25, 1.25]"]
    ]
    assert rows(run, "pruned / dense")[0][1:6] == ["12", "6", "1", "64", "cpu"]


def test_failures_and_broken_promises_are_said(run):
    with pytest.raises(ValueError, match="too big"), run.case(case="dates-none", **WHERE):
        raise ValueError("too big")
    with pytest.raises(ValueError, match="too small"), run.plan(plan="dates-dense", task="dates"):
        raise ValueError("too small")
    run.add_promise(("dates", "dense_at_least", 0.9, 0.8, 1.0, 0.99, False))
    run.add_promise(("dates", "attention_share", 0.4, 0.3, 0.5, 0.3, True))
    run.assemble()
    assert list(summary(run.path)) == [
        "broken: task dates states dense_at_least = 0.99; measured 0.900",
        "failed: dates-none: ValueError: too big",
        "failed: dates-dense: ValueError: too small",
        f"run directory: {run.path}",
    ]
