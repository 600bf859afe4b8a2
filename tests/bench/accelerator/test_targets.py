"""Targets of a run on an accelerator, from cases whose ratios are known."""

import json

import pytest

from bench.accelerator import targets
from bench.accelerator.targets import decoding, missed, summary

BLANK = {"status": "ok", "kind": "attention", "mask": "none", "heads_kept": 12, "heads_total": 12}


def samples(**seconds):
    return [
        {"arm": arm, "round": index, "seconds": each * (1 + index / 1000)}
        for index in range(10)
        for arm, each in seconds.items()
    ]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "cases").mkdir()

    def add(name, seconds, **fields):
        record = {**BLANK, "case": name, "samples": samples(**seconds), **fields}
        (tmp_path / "cases" / f"{name}.json").write_text(json.dumps(record))

    add.path = tmp_path
    return add


def test_our_layer_is_held_to_the_fastest_peer_that_somebody_would_use(run):
    run("dense", {"mha": 1.02e-3, "linears": 1e-3, "torch": 2e-3, "products": 0.5e-3, "float32": 0.1e-3})
    run("slow", {"mha": 1.1e-3, "torch": 1e-3})
    run("not-measured", {}, status="out of memory")
    by_cell = {target.cell: target for target in targets.targets(run.path)}
    assert by_cell.keys() == {"dense", "slow"}
    assert by_cell["dense"].beside == "linears"
    assert by_cell["dense"].share == pytest.approx((1.02, 1.02, 1.02))
    assert (by_cell["dense"].reached, by_cell["slow"].reached) == (True, False)
    assert missed(run.path, 5) == ["slow"]


def test_the_whole_interval_has_to_be_within_the_target(run):
    run("noisy", {"mha": 1e-3})
    record = json.loads((run.path / "cases" / "noisy.json").read_text())
    other = [{"arm": "torch", "round": n, "seconds": (1.1e-3, 0.9e-3)[n % 3 == 0]} for n in range(10)]
    record["samples"] += other
    (run.path / "cases" / "noisy.json").write_text(json.dumps(record))
    (target,) = targets.targets(run.path)
    assert target.share.value < 1.03 < target.share.high
    assert not target.reached


def test_a_sliced_layer_may_take_a_tenth_more_than_the_share_of_its_heads_where_calls_are_long(run):
    half = {"heads_kept": 6}
    run("good", {"pruned": 5.4e-3, "dense": 10e-3}, **half)
    run("bad", {"pruned": 5.6e-3, "dense": 10e-3}, **half)
    run("short", {"pruned": 0.9e-3, "dense": 0.9e-3}, **half)
    found = {target.cell: target.reached for target in targets.targets(run.path)}
    assert found == {"good": True, "bad": False}


def test_a_padded_batch_is_held_to_peers_that_compute_padding_and_to_one_that_does_not(run):
    run("padded", {"mha": 6e-3, "linears": 10e-3, "torch": 11e-3, "nested": 5.9e-3}, mask="padded")
    by_what = {target.what: target for target in targets.targets(run.path)}
    assert by_what["padded"].beside == "linears"
    assert by_what["padded"].reached
    assert by_what["nested"].share.value == pytest.approx(6 / 5.9)
    assert by_what["nested"].reached


def test_predictions_and_what_decoding_is_bound_by(run):
    (run.path / "predictions.csv").write_text(
        "task,plan,measured,error\nllama-1b,even,0.8,-0.07\nllama-1b,odd,0.9,0.01\nattention,none,0.01,3.0\n"
    )
    (run.path / "ceilings.csv").write_text("ceiling,value\nmatmul,1e15\ncopy,3e12\n")
    counts = {"dense": {"bytes": 3e9}, "pruned": {"bytes": 1.5e9}}
    run("token", {"dense": 2e-3, "pruned": 1e-3}, kind="generation", counts=counts, tokens=4)
    assert [(target.cell, target.reached) for target in targets.targets(run.path)] == [
        ("llama-1b, even: 0.800 of dense", False),
        ("llama-1b, odd: 0.900 of dense", True),
    ]
    dense, pruned = decoding(run.path)
    assert (dense.tokens, pruned.tokens) == pytest.approx((2000, 4000), rel=0.01)
    assert dense.bound == pytest.approx(0.5, rel=0.01)
    lines = [*summary(run.path)]
    assert lines[0].startswith("MISSED")
    assert "predicted: 1 of 2 reached" in lines
    assert "tokens/s, 50% of it is reading weights and cache" in lines[-1]


def test_nothing_measured_is_no_error(tmp_path):
    assert [*summary(tmp_path)] == []
