"""What is written to a run directory, and that it is written whole."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch

from bench.rundir.case_store import read_records
from bench.rundir.directory import RunDirectory
from bench.rundir.files import unfinished

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
    return sorted(path.name for path in run.path.iterdir() if path.name != ".lock")


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


def test_what_fails_outside_of_its_record_is_recorded_once(run):
    known = {"case": "tiny-none", "kind": "pruning", "batch": 3}
    with pytest.raises(SystemExit), run.case(**known):
        raise SystemExit("enough")
    run.fail("latency-tiny-none", known, ValueError("later"))  # has been recorded
    run.fail("latency-tiny-half", {"case": "tiny-half"}, ValueError("before it began"))
    run.fail("accuracy-tiny-none", {"plan": "tiny-none", "task": "tiny"}, pytest.fail.Exception("no"))
    for name, error in (("a", ValueError("no")), ("b", pytest.skip.Exception("not here")), ("c", MemoryError())):
        run.fail(f"scores-{name}", {}, error)
    run.fail("scores-d", {}, pytest.skip.Exception("out of memory: 7 bytes"))
    found = {folder: read_records(run.path / folder) for folder in ("cases", "plans", "steps")}
    assert [(case["case"], case["status"]) for case in found["cases"]] == [
        ("tiny-half", "failed"),
        ("tiny-none", "failed"),
    ]
    assert ["ValueError: before" in case["error"] for case in found["cases"]] == [True, False]
    assert "SystemExit: enough" in found["cases"][1]["error"]
    assert [(plan["plan"], plan["task"], plan["status"]) for plan in found["plans"]] == [
        ("tiny-none", "tiny", "failed")
    ]
    assert {step["step"]: step["status"] for step in found["steps"]} == {
        "scores-a": "failed", "scores-b": "skipped", "scores-c": "out of memory", "scores-d": "out of memory",
    }  # fmt: skip
    run.done("scores-a")
    run.done("scores-e")
    assert [step["step"] for step in read_records(run.path / "steps")] == ["scores-b", "scores-c", "scores-d"]


def test_a_case_is_recorded_when_it_ends(run):
    known = {"case": "tiny-none", "kind": "pruning", "batch": 3, "seq_len": 5, "mode": "compile"}
    found = {"shape": [0, 0], "samples": [{"arm": "dense", "round": 0, "seconds": 0.125}]}
    with run.case(**known) as record:
        assert read_records(run.path / "cases") == []
        record |= found
    (written,) = read_records(run.path / "cases")
    unknown = ("task", "criterion", "plan", "kept_fraction", "heads_kept", "heads_total", "device", "dtype")
    head = {"schema": 1, "status": "ok", "error": None, "process": 0, "counts": {}, "skipped_arms": {}}
    axes = {"cache": "warm", "phase": "forward", "mask": "none", "repair": "none", "machine": "own", "tokens": 15}
    open_fields = dict.fromkeys((*unknown, "length", "timed_by", "ended", "warm_up", "width", "head_dim"))
    assert written == head | known | found | axes | open_fields


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


def test_a_run_that_is_told_to_stop_says_nothing_of_the_case(run):
    with pytest.raises(pytest.exit.Exception), run.case(case="tiny-none"):
        pytest.exit("enough")
    assert list((run.path / "cases").iterdir()) == []


def test_a_case_that_is_skipped_says_why(run):
    with pytest.raises(pytest.skip.Exception), run.case(case="tiny-none"):
        pytest.skip("tiny has no cache.")
    (written,) = read_records(run.path / "cases")
    assert (written["status"], written["error"]) == ("skipped", "tiny has no cache.")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: error code 12"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes."), "out of memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "failed"),
        (ValueError("out of memory"), "failed"),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(run, error, status):
    with pytest.raises(type(error)), run.case(case="tiny-none"):
        raise error
    (written,) = read_records(run.path / "cases")
    assert written["status"] == status
    assert str(error) in written["error"]


def test_what_the_cpu_really_raises_is_out_of_memory(run):
    with pytest.raises(RuntimeError), run.case(case="tiny-none"):
        torch.empty(2**60, dtype=torch.uint8)
    assert read_records(run.path / "cases")[0]["status"] == "out of memory"


def test_each_process_has_files_of_its_own(tmp_path):
    for process in (0, 2):
        run = RunDirectory.create(tmp_path, {}, TASKS, process)
        assert not run.has_case("tiny-none")
        with run.case(case="tiny-none"):
            pass
        run.add_ceiling(("cpu", "float32", "matmul", 1e11, 9e10, 2e11, 17))
        assert run.has_case("tiny-none")
        run.close()
    assert sorted(path.name for path in (tmp_path / "cases").iterdir()) == ["tiny-none+2.json", "tiny-none.json"]
    assert [(record["case"], record["process"]) for record in read_records(tmp_path / "cases")] == [
        *(("tiny-none", 2), ("tiny-none", 0)),
    ]
    assert pd.read_csv(tmp_path / "ceilings.csv")["process"].tolist() == [0, 2]


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
    judged = "high, difference, difference_low, difference_high, examples, repair, repair_seconds, repair_bytes"
    assert ", ".join(plans.columns) == f"{columns}, {judged}"
    assert plans["repair"].tolist() == ["none", "none"]
    assert plans[["repair_seconds", "repair_bytes"]].isna().all(axis=None)
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
    tables = [
        "calibration.csv",
        "reliability.csv",
        "slices.csv",
        "texts.csv",
        "ceilings.csv",
        "memory.csv",
        "operators.csv",
        "predictions.csv",
        "promises.csv",
        "scores.csv",
    ]
    assert names(run) == sorted([*expected, *tables])
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
    document = {"version": "5.3.1", "benchmarks": [{"fullname": "a", "stats": {"median": 0.5}}]}
    written.write_text(json.dumps(document))
    run.finish(written, interrupted=False)
    assert json.loads((run.path / "benchmarks.json").read_text()) == document
    assert written.exists() is not staged


def test_a_file_that_breaks_off_leaves_the_old_one(run, monkeypatch):
    before = environment(run)
    with pytest.raises(ValueError, match="JSON"):
        run.describe_task("tiny", {"chance": float("nan")})
    assert environment(run) == before

    def broken(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(
        pytest.exit.Exception, match=r"scores.csv can't be written \(no space left\); what was finished"
    ):
        run.add_scores([])
    assert names(run) == ["cases", "environment.json", "plans"]


def test_a_directory_that_can_not_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        RunDirectory.create(tmp_path / "file" / "run", {}, TASKS)
