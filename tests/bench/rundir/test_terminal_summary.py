"""The tables at the end of a run, from a run directory written by hand."""

import pytest

from bench.rundir.directory import RunDirectory
from bench.rundir.terminal_summary import summary

FACTS = {"metric": "exact match", "batch_size": 3}
WHERE = {"kind": "pruning", "task": "dates", "batch": 3, "device": "cpu"}


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, {}, {"dates": FACTS, "digits": FACTS})


def plan(run, criterion, kept, value, draw=0, repair="none"):
    name = f"dates-{criterion}-{kept}-{repair}-{draw}"
    sizes = {"kept_fraction": kept, "heads_kept": round(8 * kept), "examples": 1, "values": [value]}
    bounds = {
        "low": value - 0.01,
        "high": value + 0.01,
        "difference_low": value - 1.01,
        "difference_high": value - 0.99,
    }
    with run.plan(plan=name, task="dates", criterion=criterion, draw=draw, repair=repair, **sizes) as record:
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


def test_a_repaired_plan_stands_below_its_raw_one(run):
    plan(run, "taylor", 0.5, 0.75)
    plan(run, "taylor", 0.5, 0.95, repair="compensate")
    plan(run, "shrink", 0.5, 0.97, repair="shrink")
    known = {"criterion": "taylor", "kept_fraction": 0.5, "timed_by": "a", **WHERE}
    with run.case(case="a", **known) as record:
        record["samples"] = samples(0.002, 0.003, "pruned", "dense")
    with run.case(case="b", repair="compensate", **known):
        pass
    run.assemble()
    timing = ["2.00", "3.00", "1.50 [1.50, 1.50]"]
    assert [(row[0], row[3][:5], row[5:]) for row in rows(run, "taylor")] == [
        ("taylor", "0.750", timing),
        ("taylor, repaired", "0.950", timing),
    ]
    assert [row[0] for row in rows(run, "shrink")] == ["shrink"]


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


def test_the_bare_layer_stands_beside_the_fastest_peer(run):
    sizes = {"kind": "attention", "task": "attention", "heads_total": 12, "batch": 1, "seq_len": 64, "device": "cpu"}
    seconds = {"mha": 0.004, "torch": 0.006, "textbook": 0.005, "linears": 0.0055, "products": 0.001, "float32": 0.001}
    with run.case(case="x", kept_fraction=1.0, heads_kept=12, timed_by="x", dtype="bfloat16", **sizes) as record:
        record["samples"] = [
            {"arm": arm, "round": r, "seconds": took} for r in range(4) for arm, took in seconds.items()
        ]
        record["mask"] = "padded"
    run.assemble()
    timing = ["4.00", "5.00", "1.25 [1.25, 1.25]"]
    assert rows(run, "mha /") == [
        ["mha / textbook", "12", "12", "1", "64", "cpu, bfloat16, padded", *timing],
    ]


def test_generation(run):
    where = {
        **WHERE,
        "kind": "generation",
        "criterion": None,
        "kept_fraction": 0.5,
        "seq_len": 64,
        "dtype": "float32",
    }
    for name, phase, tokens in (("a", "prefill", 192), ("b", "decode", 3)):
        with run.case(case=name, timed_by=name, **where) as record:
            record |= {"phase": phase, "tokens": tokens, "samples": samples(0.002, 0.003, "pruned", "dense")}
    run.assemble()
    timing = ["2.00", "3.00", "1.50 [1.50, 1.50]"]
    assert rows(run, "dates") == [
        ["dates", "0.5", "3", "64", "cpu, float32, decode", "1500", *timing],
        ["dates", "0.5", "3", "64", "cpu, float32, prefill", "96000", *timing],
    ]


def test_each_dtype_and_mode_is_a_table_of_its_own(run):
    plan(run, "gate", 0.5, 0.5)
    for name, dtype, mode in (("a", "float32", "eager"), ("b", "float32", "compile"), ("c", "bfloat16", "eager")):
        known = {"case": name, "criterion": "gate", "kept_fraction": 0.5, "timed_by": name, "dtype": dtype}
        with run.case(**known, **WHERE) as record:
            record |= {"mode": mode, "samples": samples(0.001, 0.003 if mode == "eager" else 0.002, "pruned", "dense")}
    run.assemble()
    assert [row[-1] for row in rows(run, "gate")] == ["3.00 [3.00, 3.00]", "2.00 [2.00, 2.00]", "3.00 [3.00, 3.00]"]
    titles = [line for line in summary(run.path) if line.startswith("dates:")]
    assert [title.partition(" on ")[2] for title in titles] == [
        "cpu, float32",
        "cpu, float32, compile",
        "cpu, bfloat16",
    ]


def test_what_ended_the_timing_and_what_was_left_out(run):
    for name, ended in (("a", "steady"), ("b", "time spent"), ("c", "steady"), ("d", None)):
        with run.case(case=name, timed_by=name, **WHERE) as record:
            record |= {"ended": ended, "samples": samples(1.0, 1.0, "pruned", "dense"), "criterion": "gate"}
            record["kept_fraction"] = 0.5
    with pytest.raises(MemoryError), run.case(case="e", **WHERE):
        raise MemoryError
    with pytest.raises(pytest.skip.Exception), run.case(case="f", **WHERE):
        pytest.skip("dates has no cache.")
    run.note({"machine": {"checks": [], "noisy": ["Other programs used 0.20 cores on average."]}})
    run.assemble()
    assert list(summary(run.path))[-5:] == [
        "timing ended: 2 × steady, 1 × time spent",
        "out of memory: e: MemoryError",
        "skipped: f: dates has no cache.",
        "noisy: Other programs used 0.20 cores on average.",
        f"run directory: {run.path}",
    ]


def test_each_process_shows_its_own_timings(run):
    with run.case(case="x", timed_by="x", kept_fraction=0.5, criterion="gate", **WHERE) as record:
        record["samples"] = samples(0.002, 0.003, "pruned", "dense")
    run.assemble()
    assert any("2.00" in line for line in summary(run.path))
    assert list(summary(run.path, process=1)) == [f"run directory: {run.path}"]


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
