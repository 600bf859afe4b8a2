"""Cases of several processes, fields that came later, and what has no result."""

import json

import numpy as np
import pytest

from reports.read.load import load
from tests.reports.damaging import CASE, edit
from tests.reports.synthetic import fill_profile, paired


def test_a_case_of_several_processes_is_one_case_with_all_samples(write_run):
    def change(run):
        run.case("digits", "taylor", 0.25, 2, paired(0.01, 3.0, rounds=5), process=1)

    run = load(write_run(change=change))
    case = "digits-taylor-keep0.25-b2-cpu"
    assert (run.cases["case"] == case).sum() == 1
    assert [rounds.shape for rounds in run.seconds[case, "pruned"]] == [(11,), (5,)]
    first, second = run.log_ratios[case, "dense", "pruned"]
    np.testing.assert_allclose(first, np.log(4.0))
    np.testing.assert_allclose(second, np.log(3.0))
    assert run.samples.loc[run.samples["case"] == case, "process"].value_counts().to_dict() == {0: 22, 1: 10}


def test_a_case_that_only_a_later_process_finished_is_there(write_run):
    path = write_run()
    name = CASE.removeprefix("cases/").removesuffix(".json")
    document = json.loads((path / CASE).read_text())
    (path / f"cases/{name}+2.json").write_text(json.dumps(document | {"process": 2}))
    edit(path / CASE, status="out of memory", error="too big")
    run = load(path)
    assert len(run.log_ratios[name, "dense", "pruned"]) == 1
    assert name in run.cases["case"].tolist()


def test_the_same_process_twice(write_run):
    path = write_run()
    name = CASE.replace(".json", "+1.json")
    (path / name).write_text((path / CASE).read_text())
    run = load(path)
    assert run.left_out["what"].tolist() == [name]
    assert (
        "of process 0 is there more than once, in digits-taylor-keep0.5-b2-cpu.json, too" in run.left_out["reason"][0]
    )
    assert len(run.samples) == 18 * 2 * 11


def test_fields_that_older_runs_lack_have_defaults(full_run):
    case = load(full_run).cases.set_index("case").loc["attention-h8-keep0.5-b3-s64-cpu"]
    expected = {"cache": "warm", "mode": "eager", "phase": "forward", "mask": "none", "ended": None, "tokens": 192.0}
    assert case[list(expected)].to_dict() == expected
    assert case[["head_dim", "width", "warm_up"]].isna().all()


def test_null_stands_for_the_default(write_run):
    path = write_run()
    edit(path / CASE, cache=None, process=None, counts=None, mode="compile", ended="steady")
    case = load(path).cases.set_index("case").loc["digits-taylor-keep0.5-b2-cpu"]
    assert case[["cache", "mode", "ended"]].tolist() == ["warm", "compile", "steady"]


def test_what_was_left_out_has_not_failed(write_run):
    path = write_run()
    edit(path / CASE, status="skipped", error="float16 is not there")
    assert load(path).unfinished[["name", "status", "error"]].values.tolist() == [
        ["digits-gate-keep0.5-b2-cpu", "failed", "Boom\nRuntimeError: <b>no</b>"],
        ["digits-taylor-keep0.5-b2-cpu", "skipped", "float16 is not there"],
        ["digits-gate-keep0.5-0", "failed", "gate would not train"],
    ]


def test_counts_and_skipped_arms_are_tidy(write_run):
    path = write_run()
    edit(path / CASE, counts={"dense": {"flops": 7, "peak_bytes": None}}, skipped_arms={"torch": "not installed"})
    run = load(path)
    found = run.counts[run.counts["case"] == "digits-taylor-keep0.5-b2-cpu"]
    assert found[["arm", "flops"]].values.tolist() == [["dense", 7.0]]
    assert found[["bytes", "peak_bytes"]].isna().all(axis=None)
    assert run.skipped_arms.values.tolist() == [["digits-taylor-keep0.5-b2-cpu", "torch", "not installed"]]


def test_a_run_of_nothing_but_a_profile(write_run):
    def profile(run):
        run.task("digits", {"attention": 2})
        fill_profile(run)

    run = load(write_run(fill=profile))
    assert run.cases.empty
    assert run.operators["seconds"].sum() == pytest.approx(0.008)
    assert run.memory["bytes"].max() == 6 * 2**20


def test_noise_is_what_the_machine_says(write_run):
    assert load(write_run("quiet")).noisy == ()
    machine = {"checks": [], "noisy": ["Others used 1.5 cores."]}
    assert load(write_run("loud", change=lambda run: run.environment.update(machine=machine))).noisy == (
        "Others used 1.5 cores.",
    )


def test_several_examples_of_a_task_are_in_the_order_of_its_layers(write_run):
    def change(run):
        older, run.attention = run.attention, {"digits/plan": np.array("digits-taylor-keep0.5-0")}
        for number in (0, 1):
            run.attention[f"digits/{number}/name"] = np.array(f"a {number}")
            for layer in ("blocks.1.attention", "blocks.0.attention"):
                for field in ("dense", "pruned", "heads", "queries", "keys"):
                    run.attention[f"digits/{number}/{layer}/{field}"] = older[f"digits/{layer}/{field}"]

    run = load(write_run(change=change))
    assert [(example.example, example.layer, example.plan) for example in run.attention] == [
        (f"a {number}", f"blocks.{layer}.attention", "digits-taylor-keep0.5-0") for number in (0, 1) for layer in (0, 1)
    ]
