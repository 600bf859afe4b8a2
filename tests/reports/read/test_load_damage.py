"""Files of cases and of plans that are wrong are left out and told; the rest is there as it was written."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.read.load import load
from tests.reports.damaging import CASE, NAME, cut, edit, left_out
from tests.reports.synthetic import paired


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": [{"arm": "dense", "seconds": 1}]}, r"missing 'round' in sample 0, found 'arm', 'seconds'"),
        ({"samples": [3]}, r"expected an object for sample 0, got 3"),
        ({"samples": [*paired(1, 2), {"arm": "dense", "round": 0, "seconds": None}]}, r"'seconds' in sample 22, got N"),
        ({"samples": [{"arm": "dense", "round": 10**20, "seconds": 1.0}]}, r"numbers below 2\^63 .*, got 1000"),
        ({"samples": [{"arm": "dense", "round": 0, "seconds": 10**400}]}, r"numbers below 2\^63 .*, got 1000"),
        ({"samples": []}, r"says it timed itself, and there are none"),
        ({"batch": "two"}, r"expected int for 'batch', got 'two'"),
        ({"batch": 0}, r"expected a finite number of at least 1 for 'batch', got 0"),
        ({"kept_fraction": float("nan")}, r"a finite number of at least 0 for 'kept_fraction', got nan"),
        ({"process": "one"}, r"expected int for 'process', got 'one'"),
        ({"mask": 3}, r"expected str for 'mask', got 3"),
        ({"shape": [3, {}]}, r"expected int for each of 'shape', got {}"),
        ({"kind": "training"}, r"one of the kinds 'pruning', 'attention', 'generation', got 'training'"),
        ({"kind": "attention"}, r"expected tasks that environment\.json describes \(attention\), got digits"),
        ({"counts": {"dense": 3}}, r"expected an object for counts of arm 'dense', got 3"),
        ({"counts": {"dense": {"flops": "x"}}}, r"or null for 'flops' in counts of arm 'dense', got 'x'"),
        ({"counts": {"dense": {"flops": float("inf")}}}, r"at least 0 for 'flops' in counts of arm 'dense', got inf"),
        ({"batch": True}, r"expected int for 'batch', got True"),
        ({"seq_len": 1.5}, r"expected int or null for 'seq_len', got 1\.5"),
        ({"task": "letters"}, r"expected tasks that environment\.json describes \(digits\), got letters"),
        ({"timed_by": "nobody"}, r"'timed_by' names the case 'nobody', which is not among the 23"),
        ({"status": "fine"}, r"expected one of the statuses 'ok', 'failed', 'out of memory', 'skipped', got 'fine'"),
        ({"schema": 7}, r"expected schema 1, got 7; use the reports that came with"),
        ({"case": "digits-random-keep0.5-b2-cpu"}, r"'digits-random-keep0.5-b2-cpu' of process 0 is there more than "),
    ],
)  # fmt: skip
def test_a_case_that_is_not_what_it_should_be(write_run, full_run, changes, message):
    path = write_run()
    edit(path / CASE, **changes)
    run, whole = load(path), load(full_run)
    [[what, reason]] = left_out(run)
    assert what == CASE
    assert re.search(message, reason)
    assert run.cases["case"].tolist() == [case for case in whole.cases["case"] if case != NAME]
    expected = whole.samples[whole.samples["case"] != NAME].reset_index(drop=True)
    pd.testing.assert_frame_equal(run.samples, expected)
    assert len(run.plans) == 27
    assert "1 case has no latency" in " ".join(run.notes)


def test_a_case_that_lacks_a_field(write_run):
    path = write_run()
    document = json.loads((path / CASE).read_text())
    del document["device"]
    (path / CASE).write_text(json.dumps(document))
    [[what, reason]] = left_out(load(path))
    assert what == CASE
    assert reason.startswith("missing 'device', found 'schema', 'case'")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(float("nan"), "nan"), (0, "0.0"), (-1.5, "-1.5"), (float("inf"), "inf")],
)
def test_a_round_with_impossible_seconds_is_lost_for_all_arms(write_run, wrong, said):
    path = write_run()
    samples = paired(0.024, 2.0)
    samples[6]["seconds"] = samples[9]["seconds"] = wrong  # dense of round 3, pruned of round 4
    edit(path / CASE, samples=samples)
    run = load(path)
    expected = (
        f"2 of 11 rounds: expected positive seconds, got {said} in round 3 of arm 'dense'; run the benchmark again"
    )
    assert left_out(run) == [[CASE, expected]]
    mine = run.samples[run.samples["case"] == NAME]
    assert sorted(mine["round"]) == sorted([0, 1, 2, 5, 6, 7, 8, 9, 10] * 2)
    np.testing.assert_allclose(run.log_ratios[NAME, "dense", "pruned"], np.full((1, 9), np.log(2.0)))
    assert len(run.samples) == 18 * 2 * 11 - 4


def test_a_case_that_loses_all_rounds_is_lost(write_run):
    path = write_run()
    edit(path / CASE, samples=[{"arm": "dense", "round": turn, "seconds": float("nan")} for turn in range(3)])
    run = load(path)
    expected = "all 3 rounds: expected positive seconds, got nan in round 0 of arm 'dense'; run the benchmark again"
    assert left_out(run) == [[CASE, expected]]
    assert NAME not in run.cases["case"].tolist()


def test_a_round_that_is_there_twice_is_lost(write_run):
    path = write_run()
    samples = paired(0.024, 2.0)
    edit(path / CASE, samples=[*samples, samples[10]])
    run = load(path)
    [[what, reason]] = left_out(run)
    assert what == CASE
    assert reason.startswith("1 of 11 rounds: arm 'dense' has round 5 more than once")
    assert len(run.log_ratios[NAME, "dense", "pruned"][0]) == 10


def test_the_file_that_is_named_after_a_case_is_the_case(write_run):
    path = write_run()
    document = json.loads((path / CASE).read_text())
    (path / "cases/another.json").write_text(json.dumps(document | {"batch": 17}))
    run = load(path)
    [[what, reason]] = left_out(run)
    assert what == "cases/another.json"
    assert reason.startswith(f"the case '{NAME}' of process 0 is there more than once, in {NAME}.json, too; ")
    assert run.cases.set_index("case").loc[NAME, "batch"] == 2
    assert len(run.samples) == 18 * 2 * 11


CUT = [
    ("plans.csv", "a CSV table", "plans"),
    ("scores.csv", "a CSV table", "scores"),
    ("memory.csv", "a CSV table", "memory"),
    ("attention.npz", "an npz archive of plain arrays", "attention"),
    ("examples.parquet", "a Parquet file", None),
    ("plans/digits-gate-keep0.5-0.json", "a JSON object", None),
    (CASE, "a JSON object", None),
]


@pytest.mark.parametrize(("name", "expected", "lost"), CUT)
@pytest.mark.parametrize("share", [0.0, 0.61, 0.99])
def test_files_that_are_cut_off(write_run, name, expected, lost, share):
    path = write_run()
    cut(path / name, share)
    run = load(path)
    [[what, reason]] = left_out(run)
    assert what == name
    assert re.match(rf"expected {expected}, but it is cut off or not of that format \(.*; copy the run", reason)
    sizes = {"plans": 27, "scores": 32, "memory": 8, "attention": 2, "operators": 6}
    found = {part: len(getattr(run, part)) for part in sizes}
    assert found == sizes | ({lost: 0} if lost else {})
    assert len(run.cases) == (21 if name == CASE else 22)
    assert len(run.unfinished) == (1 if name.startswith("plans/") else 2)


@pytest.mark.parametrize(("name", "expected", "lost"), CUT)
@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\xff", b"\x93NUMPY\x01\0v\0{'descr'", b"PK\3\4", b"[" * 99_999]
)
def test_files_of_another_format(write_run, name, expected, lost, content):
    path = write_run()
    (path / name).write_bytes(content)
    run = load(path)
    [[what, reason]] = left_out(run)
    assert what == name
    assert reason.startswith(f"expected {expected}, but it is cut off or not of that format (")
    assert lost is None or len(getattr(run, lost)) == 0


def test_a_folder_in_place_of_a_file_is_told(write_run):
    path = write_run()
    (path / "scores.csv").unlink()
    (path / "scores.csv").mkdir()
    (path / "cases/x.json").mkdir()
    assert [(what, reason.split(";")[0]) for what, reason in left_out(load(path))] == [
        ("cases/x.json", "expected a file, found a directory"),
        ("scores.csv", "expected a file, found a directory"),
    ]


@pytest.mark.parametrize("content", ["[1]", "3", '"text"', "null"])
def test_foreign_json(write_run, content):
    path = write_run()
    (path / "cases/foreign.json").write_text(content)
    (path / "plans/foreign.json").write_text("{}")
    run = load(path)
    kind = type(json.loads(content)).__name__
    assert [(what, reason.split(";")[0]) for what, reason in left_out(run)] == [
        ("cases/foreign.json", f"expected a JSON object, got {kind}"),
        ("plans/foreign.json", "expected schema 1, got None"),
    ]
    assert len(run.cases) == 22


def test_many_files_with_the_same_fault_are_one_row(write_run):
    path = write_run()
    for number in range(3000):
        (path / f"cases/a{number:04}.json").write_text('{"schema": 1, "status": ' + "9" * (1 + number % 7))
    for number in range(4):
        (path / f"cases/b{number}.json").write_text("[1]")
    run = load(path)
    first, second = left_out(run)
    assert first[0] == "3,000 files in cases/, the first cases/a0000.json"
    assert first[1].startswith("expected a JSON object, but it is cut off")
    assert second[0] == "4 files in cases/, the first cases/b0.json"
    assert len(run.cases) == 22


def test_names_that_are_no_text_can_still_be_written(write_run):
    path = write_run()
    try:
        Path(os.fsdecode(os.fsencode(path) + b"/cases/\xff.json")).write_text("{")
    except OSError:
        pytest.skip("this file system takes no such names")
    [[what, _]] = left_out(load(path))
    assert what == "cases/\\udcff.json"
