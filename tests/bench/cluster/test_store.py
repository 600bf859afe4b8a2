"""What workers send, in the run directory and in the report: of unlike machines apart, and each result once."""

import io
import json

import numpy as np
import pytest

from bench.cluster.fleet import machine_name
from bench.cluster.store import Store
from bench.rundir.directory import RunDirectory
from reports.analyse import bounds, frames, tables
from reports.read.load import load

TASK = {"metric": "accuracy", "higher_is_better": True, "chance": 0.1, "batch_size": 2}
OWN = {"fingerprint": "a" * 16, "cpu": "AMD EPYC 7B13", "accelerators": {}, "cores": 2, "packages": {"torch": "2.13.0"}}
OTHER = {**OWN, "fingerprint": "5d0c12" + "b" * 10, "accelerators": {"cuda": "NVIDIA H100 80GB HBM3"}}
H100 = "nvidia-h100-80gb-hbm3-5d0c12"
CHECK = {"when": "2026-11-23T05:00:00.000+00:00", "process": 0, "control": [0.01], "load": 0.5, "mhz": None, "held": {}}


def record(name, **changes):
    samples = [{"arm": arm, "round": turn, "seconds": 0.5} for turn in range(7) for arm in ("dense", "pruned")]
    known = {"schema": 1, "status": "ok", "error": None, "case": name, "kind": "pruning", "task": "digits"}
    plan = {"criterion": "taylor", "plan": "p", "kept_fraction": 0.5, "heads_kept": 1, "heads_total": 2, "shape": [1]}
    place = {"batch": 2, "seq_len": 7, "device": "cpu", "dtype": "float32", "machine": "own", "process": 0}
    counts = {"counts": {"dense": {"flops": 4, "bytes": 4}, "pruned": {"flops": 2, "bytes": 2}}}
    return {**known, **plan, **place, **counts, "timed_by": name, "samples": samples, **changes}


def result(facts, *, records=(), host="h", **files):
    cases = {f"cases/{each['case']}.json": json.dumps(each).encode() for each in records}
    checks = [CHECK, {**CHECK, "when": "2026-11-23T05:01:00.000+00:00"}]
    environment = {**facts, "tasks": {"digits": TASK}, "machine": {"checks": checks, "noisy": []}}
    return {"files": {**cases, **files}, "environment": environment, "host": host, "reports": []}


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path / "run", OWN, {"digits": TASK})
    yield run
    run.close()


def ceilings(value):
    header = "device,dtype,ceiling,value,low,high,samples,process,machine\n"
    rows = [f"cpu,float32,{name},{value},{value},{value},7,0,own\n" for name in ("matmul", "copy", "cached copy")]
    return "".join([header, *rows]).encode()


def test_cases_of_unlike_machines_stand_apart(run):
    store = Store(run, lambda: 0.0)
    store.take(result(OWN, records=[record("mine")], **{"ceilings.csv": ceilings(8.0)}), timed=True)
    theirs = [record("theirs"), record("same-shape", timed_by="theirs", samples=[])]
    store.take(result(OTHER, records=theirs[:1], **{"ceilings.csv": ceilings(16.0)}), timed=True)
    store.take(result(OWN, records=theirs[1:]), timed=False)
    run.assemble()
    run.finish(run.path / "none.json", interrupted=False)
    written = {path.stem: json.loads(path.read_text())["machine"] for path in (run.path / "cases").iterdir()}
    assert written == {"mine": "own", "theirs": H100, "same-shape": H100}
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["machines"].keys() == {H100}
    assert environment["machines"][H100]["accelerators"] == OTHER["accelerators"]
    noisy = "Other programs used 0.50 cores on average; up to 0.1 is quiet."
    assert environment["machines"][H100]["machine"]["noisy"] == environment["machine"]["noisy"] == [noisy]
    read = load(run.path)
    assert read.left_out.empty
    assert read.noisy == (noisy, f"{H100}: {noisy}")
    settings = {setting.text: sorted(cases["case"]) for setting, cases in frames.settings(read.cases)}
    assert settings == {
        "cpu, float32, 7 tokens": ["mine"],
        f"cpu, float32, {H100}, 7 tokens": ["same-shape", "theirs"],
    }
    points = bounds.points(read, "digits").set_index(["case", "arm"])["matmul"]
    assert points.to_dict() == {
        **{("mine", arm): 8.0 for arm in ("dense", "pruned")},
        **{("theirs", arm): 16.0 for arm in ("dense", "pruned")},
    }
    (shown,) = tables.ceilings(read)
    assert {row[0].text for row in shown.rows} == {"cpu", f"cpu, {H100}"}
    assert "NVIDIA H100" in dict(tables.environment(read.environment))[f"machine {H100}"]


def test_the_first_result_stands_unless_it_failed(run):
    store = Store(run, lambda: 0.0)
    for seq_len, status in ((1, "failed"), (2, "ok"), (3, "ok"), (4, "failed")):
        store.take(result(OWN, records=[record("one", seq_len=seq_len, status=status)]), timed=False)
    assert json.loads((run.path / "cases" / "one.json").read_text())["seq_len"] == 2
    assert store.dropped == 2


def test_arrays_and_benchmarks_of_several_processes_come_together(run):
    store = Store(run, lambda: 0.0)
    for number in (1, 2):
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **{f"task/{number}": np.full(3, number)})
        entries = json.dumps({"version": "5", "benchmarks": [{"fullname": f"case-{number}"}]}).encode()
        store.take(result(OWN, **{"attention.npz": packed.getvalue(), "benchmarks.json": entries}), timed=False)
    run.finish(run.path / "none.json", interrupted=False)
    with np.load(run.path / "attention.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].tolist() for name in arrays} == {"task/1": [1, 1, 1], "task/2": [2, 2, 2]}
    benchmarks = json.loads((run.path / "benchmarks.json").read_text())["benchmarks"]
    assert [entry["fullname"] for entry in benchmarks] == ["case-1", "case-2"]


def test_what_is_made_is_there_until_the_sweep_is_complete(run):
    store = Store(run, lambda: 0.0)
    store.put("digits-model", {"models/digits.safetensors": b"weights"})
    store.put("digits-none", {})
    again = Store(run, lambda: 0.0)
    assert again.made("digits-model") == {"models/digits.safetensors": b"weights"}
    assert again.made("digits-none") == {}
    assert again.made("digits-dense") is None
    again.clear()
    assert store.made("digits-model") is None


def test_machines_have_short_names():
    assert machine_name(OTHER) == H100
    cpu = {"cpu": "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "fingerprint": "0123456789"}
    assert machine_name(cpu) == "intel-xeon-e5-2680-v4-012345"
