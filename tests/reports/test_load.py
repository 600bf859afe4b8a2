"""A run is read as it was written, and whatever is wrong with one is said in words."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.errors import ReportError
from reports.load import load

CASE = "cases/digits-taylor-keep0.5-b2-cpu.json"


def edit(path: Path, **changes) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | changes))


def cut(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def test_a_run_is_read_as_written(full_run):
    run = load(full_run)
    assert run.name == "full"
    assert run.tasks == ("digits",)
    assert run.criteria == ("magnitude", "taylor", "random")
    assert len(run.cases) == 22
    assert len(run.samples) == 18 * 2 * 11
    assert not run.samples["case"].str.contains("magnitude").any()
    assert run.unfinished["name"].tolist() == ["digits-gate-keep0.5-b2-cpu", "digits-gate-keep0.5-0"]
    assert run.plans["value"].iloc[0] == 0.97
    assert run.notes == ()
    first, second = run.attention
    assert first.layer == "blocks.0.attention"
    assert first.heads == (1, 4, 6)
    assert first.dense.shape == (8, 5, 7)
    assert second.heads == ()
    np.testing.assert_allclose(run.log_ratios["digits-taylor-keep0.25-b2-cpu", "dense", "pruned"], np.log(4.0))


def test_kept_fractions_survive_the_csv_to_the_last_bit(write_run):
    third = 1 / 3
    path = write_run(change=lambda run: run.plan("digits", "taylor", third, 0.9))
    assert third in load(path).plans["kept_fraction"].tolist()


def test_what_is_missing_is_noted(minimal_run, write_run):
    assert load(minimal_run).notes == ()

    def bare(run):
        run.plans, run.scores, run.attention = [], [], {}
        run.environment["interrupted"] = True

    notes = " ".join(load(write_run(change=bare)).notes)
    for expected in ("interrupted", "plans.csv", "scores.csv", "examples.parquet", "attention.npz"):
        assert expected in notes


def test_tables_without_rows_are_no_error(write_run):
    path = write_run()
    for name in ("plans.csv", "scores.csv"):
        (path / name).write_text((path / name).read_text().splitlines()[0] + "\n")
    np.savez(path / "attention.npz")
    run = load(path)
    assert (len(run.plans), len(run.scores), len(run.attention)) == (0, 0, 0)


def test_cases_whose_shape_could_not_be_timed_are_noted(write_run):
    path = write_run()
    edit(path / CASE, status="failed", error="out of memory")
    assert "1 case has no latency" in " ".join(load(path).notes)


def test_nothing_there(tmp_path):
    with pytest.raises(ReportError, match=r"nowhere: expected a run directory, found nothing; give the directory"):
        load(tmp_path / "nowhere")


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ReportError, match=r"run: expected a run directory, found a file"):
        load(tmp_path / "run")


def test_no_environment(tmp_path):
    with pytest.raises(ReportError, match=r"environment\.json in it, which is not there"):
        load(tmp_path)


def test_cut_off_in_the_middle(write_run):
    path = write_run(change=lambda run: run.environment.update(finished=None))
    with pytest.raises(ReportError, match=r"cut off in the middle: .*null, and 23 cases .*run the benchmark again"):
        load(path)


def test_unknown_schema(write_run):
    path = write_run(change=lambda run: run.environment.update(schema=2))
    with pytest.raises(ReportError, match=r"environment\.json: expected schema 1, got 2; use the reports that came"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": [{"arm": "dense", "round": 0, "seconds": float("nan")}]}, r"positive seconds, got nan in round 0"),
        ({"samples": [{"arm": "dense", "round": 0, "seconds": -1}]}, r"seconds, got -1 in round 0 of arm 'dense'"),
        ({"samples": [{"arm": "dense", "round": 5, "seconds": 1}] * 2}, r"'dense' has round 5 more than once"),
        ({"samples": [{"arm": "dense", "seconds": 1}]}, r"missing 'round' in sample 0, found 'arm', 'seconds'"),
        ({"samples": []}, r"says it timed itself, and there are none"),
        ({"batch": "two"}, r"expected int for 'batch', got 'two'"),
        ({"process": "one"}, r"expected int for 'process', got 'one'"),
        ({"mask": 3}, r"expected str for 'mask', got 3"),
        ({"counts": {"dense": 3}}, r"expected an object for the counts of arm 'dense', got 3"),
        ({"counts": {"dense": {"flops": "x"}}}, r"or null for 'flops' in counts of arm 'dense', got 'x'"),
        ({"batch": True}, r"expected int for 'batch', got True"),
        ({"seq_len": 1.5}, r"expected int or null for 'seq_len', got 1\.5"),
        ({"task": "letters"}, r"expected tasks that environment\.json describes .*digits.*, got letters"),
        ({"timed_by": "nobody"}, r"'timed_by' names the case 'nobody', which is not among the 23"),
        ({"status": "fine"}, r"expected one of the statuses 'ok', 'failed', 'out of memory', 'skipped', got 'fine'"),
        ({"schema": 7}, r"expected schema 1, got 7"),
        ({"case": "digits-random-keep0.5-b2-cpu"}, r"\['digits-random-keep0\.5-b2-cpu'\] are there more than once"),
    ],
)  # fmt: skip
def test_a_case_that_is_not_what_it_should_be(write_run, changes, message):
    path = write_run()
    edit(path / CASE, **changes)
    with pytest.raises(ReportError, match=message) as caught:
        load(path)
    assert str(path / "cases") in str(caught.value)


def test_a_case_that_lacks_a_field(write_run):
    path = write_run()
    document = json.loads((path / CASE).read_text())
    del document["device"]
    (path / CASE).write_text(json.dumps(document))
    with pytest.raises(ReportError, match=r"keep0\.5-b2-cpu\.json: missing 'device', found 'schema', 'case'"):
        load(path)


def test_no_finished_case(write_run):
    path = write_run(change=lambda run: run.tables.pop("operators.csv"))
    for file in (path / "cases").glob("*.json"):
        edit(file, status="failed", error="Traceback\nMemoryError: too big")
    with pytest.raises(ReportError, match=r"found none \(23 failed, the first with: MemoryError: too big\)"):
        load(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("environment.json", "a JSON object"),
        (CASE, "a JSON object"),
        ("plans.csv", "a CSV table"),
        ("scores.csv", "a CSV table"),
        ("examples.parquet", "a Parquet file"),
        ("attention.npz", "an npz archive of plain arrays"),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.61, 0.99])
def test_cut_off_files(write_run, name, expected, share):
    path = write_run()
    cut(path / name, share)
    with pytest.raises(ReportError, match=rf"expected {expected}, but it is cut off .*; copy the run") as caught:
        load(path)
    assert str(path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["environment.json", "plans.csv", "examples.parquet", "attention.npz"])
def test_files_of_another_format(write_run, name):
    path = write_run()
    (path / name).write_bytes(b"\x89PNG\r\n\x1a\n\0\xff")
    with pytest.raises(ReportError, match=rf"{re.escape(name)}: expected .* not of that format"):
        load(path)


def test_json_of_another_kind(write_run):
    path = write_run()
    (path / "environment.json").write_text("[1]")
    with pytest.raises(ReportError, match=r"environment\.json: expected a JSON object, got list"):
        load(path)


def rewrite(path: Path, change) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("plans.csv", lambda frame: frame.drop(columns=["low", "high"]), r"missing columns 'low', 'high', found 'pl"),
        ("scores.csv", lambda frame: frame.drop(columns="layer"), r"scores\.csv: missing columns 'layer'"),
        ("plans.csv", lambda frame: frame.assign(value=np.nan), r"finite number in column 'value', got nan in line 2"),
        ("plans.csv", lambda frame: frame.assign(value="good"), r"expected numbers in column 'value' \(.*good"),
        ("plans.csv", lambda frame: frame.assign(task=""), r"column 'task' has empty cells"),
        ("plans.csv", lambda frame: frame.assign(task="letters"), r"json describes \(digits\), got letters"),
        ("scores.csv", lambda frame: frame.assign(head=3), r"one score for each head, got several for"),
        ("ceilings.csv", lambda frame: frame.assign(value=np.nan), r"finite number in column 'value', got nan in line"),
        ("ceilings.csv", lambda frame: frame.drop(columns="ceiling"), r"ceilings\.csv: missing columns 'ceiling'"),
        ("operators.csv", lambda frame: frame.assign(task="letters"), r"json describes \(digits\), got letters"),
        ("memory.csv", lambda frame: frame.drop(columns="bytes"), r"memory\.csv: missing columns 'bytes', found"),
        ("predictions.csv", lambda frame: frame.assign(task="letters"), r"\(attention, digits\), got letters"),
        ("scores.csv", lambda frame: frame.assign(score=np.inf), r"finite number in column 'score', got inf in line 2"),
    ],
)  # fmt: skip
def test_tables_that_are_not_what_they_should_be(write_run, name, change, message):
    path = write_run()
    rewrite(path / name, change)
    with pytest.raises(ReportError, match=message):
        load(path)


def test_examples_without_values(write_run):
    path = write_run()
    pd.DataFrame({"task": ["digits"]}).to_parquet(path / "examples.parquet")
    with pytest.raises(ReportError, match=r"examples\.parquet: missing columns 'plan', 'example', 'value_0'"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": np.array([1, 4, 8])}, r"heads below h .* got \(8, 5, 7\), \(3, 5, 7\), \[1, 4, 8\]"),
        ({"queries": np.array(["a"])}, r"labels \(q,\) and \(k,\); got .* \(1,\) and \(7,\)"),
        ({"dense": np.zeros((8, 5))}, r"expected dense \(h, q, k\), .* got \(8, 5\)"),
        ({"pruned": None}, r"missing columns 'digits/blocks\.0\.attention/pruned'"),
        ({"dense": np.array([None])}, r"an npz archive of plain arrays, .*pickle"),
    ],
)
def test_attention_that_does_not_fit(write_run, changes, message):
    path = write_run()
    with np.load(path / "attention.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    arrays |= {f"digits/blocks.0.attention/{name}": array for name, array in changes.items()}
    np.savez(path / "attention.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ReportError, match=message):
        load(path)
