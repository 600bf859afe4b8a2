"""`pytest bench` as a user runs it, in a process of its own, and every file of the run directory it leaves."""

import json
import os
import subprocess
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch

import mha
from tests.bench.harness import TINY, Run, arguments, command
from tests.bench.tiny_task import HEAD_DIM, HEADS, LENGTH, WIDTH, TinyTask

DRAWN = {"random": 5, "even": 2}
WHOLE = {"mha", "products", "linears", "torch", "textbook", "transformers"}
SLICED = {"pruned", "dense", "torch_pruning", "masked"}
VARIANTS = {"gate", "leave_one_out", "magnitude", "random", "taylor", "even"}
REPAIRED = "leave_one_out-keep0.5-compensate"


@pytest.fixture(scope="module")
def run(pytestconfig, tmp_path_factory):
    """A quick run of the tiny task at batches of two and three, by the command itself."""
    path = tmp_path_factory.mktemp("bench") / "run"
    line = command(path, "--task", TINY, "--batch-sizes", "2,3")
    done = subprocess.run(line, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(path, done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def plans(run):
    return pd.read_csv(run.path / "plans.csv").set_index("plan")


@pytest.fixture(scope="module")
def cases(run):
    return {name: case for name, case in run.records("cases").items() if case["kind"] == "pruning"}


@pytest.fixture(scope="module")
def model():
    return TinyTask().model()


def test_the_environment(run, model):
    environment = run.json("environment.json")
    assert environment["schema"] == 1
    assert environment["finished"] >= environment["created"]
    assert environment["interrupted"] is False
    assert environment["command"].startswith("pytest bench --quick")
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["cores"] == os.cpu_count()
    assert environment["preset"] == "quick"
    assert environment["commands"] == [environment["command"]]
    assert len(environment["fingerprint"]) == 16
    tiny = environment["tasks"]["tiny"]
    assert [len(tiny.pop(name)) for name in ("source", "weights", "calibration_data")] == [64, 64, 64]
    assert {"file tiny_task.py", "class", "HEADS in tiny_task.py", "package torch"} <= set(tiny.pop("parts"))
    assert tiny.pop("uncomparable") == []
    checks = environment["machine"]["checks"]
    assert len(checks) >= 2
    assert all(seconds > 0 for check in checks for seconds in check["control"])
    assert environment["tasks"] == {
        "tiny": {
            "metric": "accuracy",
            "higher_is_better": True,
            "chance": 1 / 7,
            "pretrained": False,
            "batch_size": 3,
            "examples": 101,
            "layers": {"layers.0": HEADS, "layers.1": HEADS},
            "heads": 2 * HEADS,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "description": "Find the largest of a few numbers: a task small enough to run the whole suite on within "
            "seconds.",
        }
    }


def test_every_plan_is_there_with_its_name(plans):
    expected = {"tiny-dense", "tiny-none", f"tiny-{REPAIRED}-0"}
    for criterion in VARIANTS:
        expected |= {f"tiny-{criterion}-keep0.5-{draw}" for draw in range(DRAWN.get(criterion, 1))}
    assert set(plans.index) == expected
    assert plans.loc["tiny-dense", ["criterion", "kept_fraction", "heads_kept", "difference"]].tolist() == [
        *("dense", 1.0, 6, 0.0),
    ]
    assert plans.loc["tiny-none", ["criterion", "kept_fraction", "heads_kept"]].tolist() == ["none", 0.0, 0]


def test_plans_can_be_made_again(plans, model):
    """From nothing but criterion, kept fraction and draw; a repaired plan keeps the same heads as its raw one."""
    task = TinyTask()
    for name, row in plans[plans["criterion"].isin(mha.criteria())].iterrows():
        scores = mha.score(model, task.calibration(), task.loss, row["criterion"], seed=row["draw"])
        assert mha.HeadPlan(json.loads(row["keep"])) == mha.choose(scores, keep=0.5, model=model), name


def test_sizes_follow_from_the_heads_kept(plans, run):
    dense = run.json("environment.json")["tasks"]["tiny"]["parameters"]
    per_head = 4 * WIDTH * HEAD_DIM + 3 * HEAD_DIM
    for row in plans.itertuples():
        shape = [len(heads) for heads in json.loads(row.keep).values()]
        assert json.loads(row.shape) == shape
        assert (row.heads_kept, row.heads_total) == (sum(shape), 6)
        assert row.parameters == dense - (6 - sum(shape)) * per_head


def test_accuracy_is_the_mean_of_the_examples_of_the_pruned_model(plans, run, model):
    examples = pd.read_parquet(run.path / "examples.parquet")
    assert list(examples.columns) == ["task", "plan", "example", "value_0"]
    values = {name: group["value_0"].to_numpy() for name, group in examples.groupby("plan")}
    assert set(values) == set(plans.index)
    task = TinyTask()
    for name, row in plans.iterrows():
        pruned = mha.prune(model, mha.HeadPlan(json.loads(row["keep"])))
        if row["repair"] == "compensate":
            pruned = mha.compensate(pruned, model, task.calibration(), task.forward, progress=False)
        np.testing.assert_array_equal(values[name], TinyTask().evaluate(pruned), err_msg=name)
        assert row["value"] == pytest.approx(values[name].mean())
        assert row["difference"] == pytest.approx((values[name] - values["tiny-dense"]).mean())
        assert row["low"] <= row["value"] <= row["high"]
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert plans.loc["tiny-none", "difference_high"] < 0
    assert plans.loc["tiny-none", "low"] < plans.loc["tiny-none", "high"]


def test_a_repair_has_its_seconds_and_its_memory_and_is_timed_with_its_raw_plan(plans, cases):
    repaired = plans["repair"] == "compensate"
    assert plans.index[repaired].tolist() == [f"tiny-{REPAIRED}-0"]
    assert (plans.loc[repaired, "repair_seconds"] > 0).all()
    assert not (plans.loc[repaired, "repair_bytes"] < 0).any()  # NaN where the system does not say
    assert plans.loc[~repaired, ["repair_seconds", "repair_bytes"]].isna().all(axis=None)
    for batch in (2, 3):
        both = (f"tiny-{variant}-b{batch}-cpu" for variant in (REPAIRED, "leave_one_out-keep0.5"))
        assert len({cases[name]["timed_by"] for name in both}) == 1


def test_scores_are_the_librarys(run, model):
    scores = pd.read_csv(run.path / "scores.csv").set_index("criterion")
    assert set(scores.index) == VARIANTS - {"random", "even"}
    for criterion in set(scores.index):
        expected = mha.score(model, TinyTask().calibration(), TinyTask().loss, criterion).to_frame()
        rows = scores.loc[[criterion], ["layer", "head", "score"]].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, expected, check_dtype=False, rtol=1e-4)
        assert (scores.loc[criterion, "seconds"] > 0).all()


def test_cases_are_there_with_their_names(cases, plans):
    assert set(cases) == {
        f"tiny-{variant}-b{batch}-cpu"
        for batch in (2, 3)
        for variant in ("none", REPAIRED, *(f"{name}-keep0.5" for name in VARIANTS))
    }
    for name, case in cases.items():
        plan = plans.loc[case["plan"]]
        assert (case["schema"], case["case"], case["status"], case["error"]) == (1, name, "ok", None)
        assert (case["task"], case["device"], case["dtype"], case["seq_len"]) == ("tiny", "cpu", "float32", LENGTH)
        assert case["shape"] == json.loads(plan["shape"])
        columns = ["criterion", "kept_fraction", "heads_kept", "heads_total", "repair"]
        assert [case[column] for column in columns] == plan[columns].tolist()
        assert plan["draw"] == 0


def test_each_shape_is_timed_once_at_each_batch_size(cases):
    timed = {name: case for name, case in cases.items() if case["samples"]}
    assert len({(case["batch"], *case["shape"]) for case in timed.values()}) == len(timed)
    for case in cases.values():
        by = timed[case["timed_by"]]
        assert by["timed_by"] == by["case"]
        assert (by["batch"], by["shape"]) == (case["batch"], case["shape"])
    assert len(timed) < len(cases)


def test_samples_are_pairs_in_balanced_order(run):
    for case in run.records("cases").values():
        rounds = defaultdict(list)
        for sample in case["samples"]:
            assert sample["seconds"] > 0
            rounds[sample["round"]].append(sample["arm"])
        arms = WHOLE if case["kept_fraction"] == 1 else SLICED if case["kind"] == "attention" else {"pruned", "dense"}
        assert list(rounds) == list(range(len(rounds)))
        turns = list(rounds.values())
        assert all(sorted(turn) == sorted(arms) for turn in turns)
        assert turns[1::2] == [turn[::-1] for turn in turns[::2]], case["case"]
        if case["timed_by"] == case["case"]:
            assert set(case["counts"]) == arms
            assert all(count["flops"] > 0 and count["bytes"] > 0 for count in case["counts"].values())
            assert 4 <= len(rounds) <= 20
            assert case["ended"] in ("steady", "time spent", "most rounds")
            assert case["warm_up"] >= 3


def test_the_bare_layer(run):
    bare = {name: case for name, case in run.records("cases").items() if case["kind"] == "attention"}
    sizes = {(case["heads_kept"], case["mask"], case["batch"], case["seq_len"]) for case in bare.values()}
    assert sizes == {
        *((8, "none", batch, 64) for batch in (2, 3)),
        *((8, "padded", batch, 32) for batch in (2, 3)),
        *((4, "none", batch, 64) for batch in (2, 3)),
    }
    for case in bare.values():
        assert (case["heads_total"], case["width"], case["head_dim"]) == (8, 512, 64)
        assert (case["task"], case["criterion"], case["plan"]) == ("attention", None, None)
        assert case["shape"] == [case["heads_kept"]]


def test_pytest_benchmarks_own_file_has_the_cases_that_were_timed(run):
    timed = {name: case for name, case in run.records("cases").items() if case["samples"]}
    benchmarks = {entry["param"]: entry for entry in run.json("benchmarks.json")["benchmarks"]}
    ceilings = benchmarks.pop("cpu-float32")
    assert set(benchmarks) == set(timed)
    assert set(ceilings["extra_info"]["speedups"]) == {"copy", "cached copy"}
    for name, entry in benchmarks.items():
        own = [sample["seconds"] for sample in timed[name]["samples"] if sample["arm"] in ("pruned", "mha")]
        assert entry["stats"]["data"] == own
        info = entry["extra_info"]
        assert {*info["speedups"]} | {"pruned", "mha"} >= {sample["arm"] for sample in timed[name]["samples"]}
        assert all(one["low"] <= one["value"] <= one["high"] for one in info["speedups"].values())
        columns = ("case", "task", "criterion", "kept_fraction", "heads_kept", "batch")
        assert [info.get(column) for column in columns] == [timed[name][column] for column in columns]


def test_attention_weights_before_and_after(run, plans):
    with np.load(run.path / "attention.npz", allow_pickle=False) as arrays:
        assert arrays["tiny/plan"] == "tiny-leave_one_out-keep0.5-0"
        keep = json.loads(plans.loc["tiny-leave_one_out-keep0.5-0", "keep"])
        assert [arrays[f"tiny/{number}/name"] for number in (0, 1)] == ["seed 5", "seed 6"]
        for place, heads in ((f"tiny/{number}/{layer}", heads) for number in (0, 1) for layer, heads in keep.items()):
            assert arrays[f"{place}/heads"].tolist() == heads
            assert arrays[f"{place}/dense"].shape == (HEADS, LENGTH, LENGTH)
            assert arrays[f"{place}/pruned"].shape == (len(heads), LENGTH, LENGTH)
            assert len(arrays[f"{place}/queries"]) == len(arrays[f"{place}/keys"]) == LENGTH


def test_promises_are_measured(run, plans):
    promises = pd.read_csv(run.path / "promises.csv")
    value, low, high = plans.loc["tiny-dense", ["value", "low", "high"]]
    assert promises.values.tolist() == [["tiny", "dense_at_least", value, low, high, 0.9, True]]


def test_predicted_latencies_stand_beside_measured_ones(run):
    predictions = pd.read_csv(run.path / "predictions.csv")
    assert predictions.groupby("task")["plan"].nunique().to_dict() == {"tiny": 6, "attention": 6}
    assert predictions[predictions["task"] == "tiny"]["shape"].tolist() == [
        *("[2, 2]", "[2, 2]", "[1, 1]", "[0, 3]", "[2, 3]", "[3, 2]"),
    ]
    assert (predictions["low"] <= predictions["measured"]).all()
    assert (predictions["measured"] <= predictions["high"]).all()
    np.testing.assert_allclose(predictions["error"], predictions["predicted"] / predictions["measured"] - 1)
    assert sum(line.startswith("predicted latency of ") for line in run.output.splitlines()) == 2


def test_the_terminal_ends_with_the_table(run):
    lines = run.output.splitlines()
    assert f"run directory: {run.path}" in lines
    for variant in ("dense", "none", "leave_one_out, repaired", *VARIANTS):
        assert any(line.startswith(f"│ {variant}") for line in lines), variant
    assert "Name (time in" not in run.output  # pytest-benchmark's own table


def test_ceilings_are_measured_in_the_same_run(run):
    ceilings = pd.read_csv(run.path / "ceilings.csv").set_index("ceiling")
    assert set(ceilings.index) == {"matmul", "copy", "cached copy"}
    assert (ceilings["low"] <= ceilings["value"]).all()
    assert (ceilings["value"] <= ceilings["high"]).all()
    assert (ceilings[["device", "dtype", "process"]] == ["cpu", "float32", 0]).all(axis=None)


def test_no_half_written_file_is_left(run):
    assert [path.name for path in run.path.rglob(".*")] == [".lock"]


def test_another_process_times_everything_again_and_measures_nothing_else(run, forks):
    """Last of all, for it adds to the run: the task's cases at one batch size, some of which share a timing."""
    before = {path: path.read_bytes() for path in run.path.rglob("*.json") if path.name != "environment.json"}
    tables = {path: path.read_bytes() for path in [*run.path.glob("*.csv"), run.path / "attention.npz"]}
    first = {name for name in run.records("cases") if name.startswith("tiny-") and "-b3-" in name}
    selected = f"accuracy or scores or promise or maps or ceilings or latency and ({' or '.join(sorted(first))})"
    done = forks.start(arguments(run.path, "--task", TINY, "--batch-sizes", "2,3", "--process", "1", "-k", selected))
    assert done.wait() == 0, done.output()
    cases = run.records("cases")
    assert {name for name in cases if name.endswith("+1")} == {f"{name}+1" for name in first}
    assert f"are there already in {run.path}; {len(first) + 1} to go" in done.output()  # and the ceilings
    for name in first:
        one, other = cases[name], cases[f"{name}+1"]
        assert (other["case"], other["process"]) == (name, 1)
        assert [other[field] for field in ("shape", "timed_by", "seq_len")] == [
            *(one[field] for field in ("shape", "timed_by", "seq_len")),
        ]
        assert bool(other["samples"]) == bool(one["samples"])
    assert {bool(cases[name]["samples"]) for name in first} == {True, False}
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.read_bytes() for path in tables if path.name != "ceilings.csv"} == {
        path: content for path, content in tables.items() if path.name != "ceilings.csv"
    }
    timed = {cases[name]["case"] for name in first if cases[name]["samples"]}
    assert {entry["param"] for entry in run.json("benchmarks+1.json")["benchmarks"]} == timed | {"cpu-float32"}
    environment = run.json("environment.json")
    assert ["--process 1" in text for text in environment["commands"]] == [False, True]
    assert {check["process"] for check in environment["machine"]["checks"]} == {0, 1}
