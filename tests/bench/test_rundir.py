"""What is written to a run directory, and that it is written whole."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from bench.rundir import RunDirectory, read_records, unfinished

TASKS = {"tiny": {"metric": "accuracy"}}
SIZES = {"heads_kept": 3, "heads_total": 3, "parameters": 17, "shape": [2, 1], "keep": {"a": [0, 1], "b": [0]}}
VALUE = {"value": 0.5, "low": 0.25, "high": 0.75, "examples": 2, "values": [1.0, 0.0]}
DIFFERENCE = {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}
PLAN = {"plan": "tiny-dense", "task": "tiny", "criterion": "dense", "draw": 0, "kept_fraction": 1.0}
DENSE = {**PLAN, **SIZES, **VALUE, **DIFFERENCE}


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "runs" / "one", {"cpu": "a CPU"}, TASKS)


def environment(run):
    return json.loads((run.path / "environment.json").read_text())


def names(run):
    return sorted(path.name for path in run.path.iterdir())


def test_the_environment_is_written_first_and_last(run):
    first = environment(run)
    assert (first["schema"], first["cpu"], first["finished"], first["interrupted"]) == (1, "a CPU", None, False)
    run.describe_task("tiny", {"heads": 3})
    assert environment(run)["tasks"] == {"tiny": {"metric": "accuracy", "heads": 3}}
    run.finish(run.path / "missing.json", interrupted=True)
    last = environment(run)
    assert last["interrupted"] is True
    assert last["finished"] >= last["created"]
    assert last["tasks"] == {"tiny": {"metric": "accuracy", "heads": 3}}


def test_a_case_is_recorded_when_it_ends(run):
    known = {"case": "tiny-none", "kind": "pruning", "batch": 3}
    found = {"shape": [0, 0], "samples": [{"arm": "dense", "round": 0, "seconds": 0.125}]}
    with run.case(**known) as record:
        assert read_records(run.path / "cases") == []
        record |= found
    (written,) = read_records(run.path / "cases")
    unknown = ("task", "criterion", "plan", "kept_fraction", "heads_kept", "heads_total", "seq_len", "device")
    head = {"schema": 1, "status": "ok", "error": None}
    assert written == head | known | found | dict.fromkeys((*unknown, "dtype", "timed_by"))


@pytest.mark.parametrize("kind", ["case", "plan"])
def test_what_raises_is_recorded_with_its_traceback(run, kind):
    with pytest.raises(ZeroDivisionError), getattr(run, kind)(**{kind: "tiny-none"}) as record:
        record["shape"] = [0, 1 / 0]
    (written,) = read_records(run.path / f"{kind}s")
    assert (written["status"], written["shape"]) == ("failed", None)
    assert written["error"].splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_an_interrupted_case_leaves_nothing(run):
    with pytest.raises(KeyboardInterrupt), run.case(case="tiny-none"):
        raise KeyboardInterrupt
    assert list((run.path / "cases").iterdir()) == []


def test_tables_are_assembled_from_plans(run):
    with run.plan(**{**DENSE, "plan": "tiny-taylor-keep0.5-0", "criterion": "taylor", "kept_fraction": 0.5}) as record:
        record["values"] = [0.0, 1.0]
    with run.plan(**DENSE):
        pass
    with pytest.raises(ZeroDivisionError), run.plan(plan="tiny-none"):
        1 / 0  # noqa: B018
    run.assemble()
    plans = pd.read_csv(run.path / "plans.csv")
    assert list(plans["plan"]) == ["tiny-dense", "tiny-taylor-keep0.5-0"]
    columns = "plan, task, criterion, draw, kept_fraction, heads_kept, heads_total, parameters, shape, keep, value, low"
    assert ", ".join(plans.columns) == f"{columns}, high, difference, difference_low, difference_high, examples"
    assert json.loads(plans["keep"][0]) == {"a": [0, 1], "b": [0]}
    assert json.loads(plans["shape"][0]) == [2, 1]
    examples = pd.read_parquet(run.path / "examples.parquet")
    assert examples.values.tolist() == [
        ["tiny", "tiny-dense", 0, 1.0],
        ["tiny", "tiny-dense", 1, 0.0],
        ["tiny", "tiny-taylor-keep0.5-0", 0, 0.0],
        ["tiny", "tiny-taylor-keep0.5-0", 1, 1.0],
    ]
    assert list(examples.columns) == ["task", "plan", "example", "value_0"]


def test_statistics_of_several_columns_stand_beside_single_values(run):
    with run.plan(**DENSE):
        pass
    with run.plan(**{**DENSE, "plan": "other-dense", "task": "other", "values": [[1.0, 2.0], [3.0, 4.0]]}):
        pass
    run.assemble()
    examples = pd.read_parquet(run.path / "examples.parquet").set_index(["task", "example"])
    assert examples.loc["other", ["value_0", "value_1"]].values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert examples.loc["tiny", "value_1"].isna().all()


def test_a_run_of_nothing_has_all_tables(run):
    run.assemble()
    run.finish(run.path / "missing.json", interrupted=False)
    expected = ["attention.npz", "cases", "environment.json", "examples.parquet", "plans", "plans.csv"]
    assert names(run) == sorted([*expected, "operators.csv", "predictions.csv", "promises.csv", "scores.csv"])
    assert pd.read_csv(run.path / "plans.csv").empty
    assert list(pd.read_parquet(run.path / "examples.parquet")) == ["task", "plan", "example", "value_0"]
    assert ",".join(pd.read_csv(run.path / "scores.csv")) == "task,criterion,layer,head,score,seconds"


def test_tables_grow(run):
    run.add_scores([("tiny", "taylor", "a", 0, 0.1, 2.0)])
    run.add_scores([("tiny", "gate", "a", 0, 0.3, 4.0)])
    run.add_promise(("tiny", "dense_at_least", 0.5, 0.4, 0.6, 0.3, True))
    assert pd.read_csv(run.path / "scores.csv")["score"].tolist() == [0.1, 0.3]
    assert pd.read_csv(run.path / "promises.csv")["kept"].tolist() == [True]
    run.add_attention({"tiny/a/dense": np.ones((2, 3, 5))})
    run.add_attention({"tiny/a/keys": np.array(["x", "y"])})
    with np.load(run.path / "attention.npz", allow_pickle=False) as arrays:
        assert arrays["tiny/a/dense"].shape == (2, 3, 5)
        assert arrays["tiny/a/keys"].tolist() == ["x", "y"]


@pytest.mark.parametrize("staged", [True, False])
def test_what_pytest_benchmark_wrote_is_taken_over(run, tmp_path, staged):
    written = unfinished(run.path / "benchmarks.json") if staged else tmp_path / "elsewhere.json"
    written.write_text("{}")
    run.finish(written, interrupted=False)
    assert (run.path / "benchmarks.json").read_text() == "{}"
    assert written.exists() is not staged


def test_a_file_that_breaks_off_leaves_the_old_one(run, monkeypatch):
    before = environment(run)
    with pytest.raises(ValueError, match="JSON"):
        run.describe_task("tiny", {"chance": float("nan")})
    assert environment(run) == before

    def broken(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="no space left"):
        run.add_scores([])
    assert names(run) == ["cases", "environment.json", "plans"]


def test_a_directory_that_can_not_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        RunDirectory.create(tmp_path / "file" / "run", {}, TASKS)
