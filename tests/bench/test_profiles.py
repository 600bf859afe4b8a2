"""Traces and the table of operators: ours, whole, and counted by hand."""

import json

import pandas as pd
import pytest
import torch

from bench.measure.calls import forward
from bench.profiles import PASSES, for_tensorboard, memory_timeline, profiled
from bench.rundir.directory import RunDirectory
from bench.rundir.terminal_summary import summary
from tests.bench.chain import CALLS, Chain
from tests.bench.gpu_trace import gpu_trace


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "trace.json"


def test_operators_are_counted_for_one_pass_and_the_trace_has_all_passes(trace):
    rows = {row[0]: row[1:] for row in profiled(forward(Chain().eval(), (torch.randn(11, 37),)), "cpu", trace)}
    calls, seconds, device_seconds, _ = rows["aten::addmm"]
    assert (calls, device_seconds) == (CALLS, 0)
    assert seconds > 0
    assert rows["aten::softmax"][0] == 1
    assert not any(name.startswith("ProfilerStep") for name in rows)
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event.get("name") == "aten::addmm" for event in events) == CALLS * PASSES
    assert sum(event.get("name", "").startswith("ProfilerStep") for event in events) == PASSES


def test_the_run_holds_traces_by_kept_fraction_and_says_where_the_time_went(tmp_path, trace):
    run = RunDirectory.create(tmp_path / "run", {}, {"tiny": {"metric": "accuracy", "batch_size": 3}})
    trace.write_text("{}")
    for keep, milliseconds in ((1.0, 4.0), (0.5, 2.5)):
        run.add_trace(f"tiny-keep{keep:g}-cpu", trace)
        rows = [("aten::addmm", 6, milliseconds / 1e3, 0.0, 17), ("aten::view", 2, 0.0001, 0.0, 0)]
        run.add_operators(("tiny", "cpu", "taylor", keep, 3, *row) for row in rows)
        run.add_memory([("tiny", "cpu", "taylor", keep, 3, 0.0, 0), ("tiny", "cpu", "taylor", keep, 3, 0.001, 17)])
    run.assemble()
    memory = pd.read_csv(run.path / "memory.csv")
    assert memory.groupby("kept_fraction")["bytes"].max().to_dict() == {1.0: 17, 0.5: 17}
    frame = pd.read_csv(run.path / "operators.csv")
    assert frame.groupby("kept_fraction")["seconds"].sum().to_dict() == pytest.approx({1.0: 0.0041, 0.5: 0.0026})
    assert sorted(path.name for path in (run.path / "traces").iterdir()) == ["tiny-keep0.5-cpu", "tiny-keep1-cpu"]
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in summary(run.path)]
    assert ["aten::addmm", "4.000", "2.500"] in lines
    assert ["sum", "4.100", "2.600"] in lines
    assert any("Perfetto" in line for line in summary(run.path))


def test_memory_is_what_one_pass_has_allocated(trace):
    """Three outputs of 11 × 37 floats, each freed once the next is there, and the softmax."""
    list(profiled(forward(Chain().eval(), (torch.randn(11, 37),)), "cpu", trace))
    times, allocated = zip(*memory_timeline(json.loads(trace.read_text()), "cpu"), strict=True)
    size = 11 * 37 * 4
    assert allocated == (0, size, *(CALLS * [2 * size, size]), 0)
    assert list(times) == sorted(times)
    assert times[0] == 0


def test_memory_of_a_device_is_its_own_and_of_the_last_pass():
    rows = list(memory_timeline(gpu_trace(), "cuda"))
    assert [size for _, size in rows] == [0, 512, 768, 256]
    assert [seconds for seconds, _ in rows] == pytest.approx([0, 60e-6, 310e-6, 350e-6])
    assert list(memory_timeline(gpu_trace(), "cpu")) == [(0.0, 0), (pytest.approx(70e-6), 64)]


def test_only_categories_that_the_plugin_gets_wrong_are_renamed(trace):
    document = gpu_trace()
    trace.write_text(json.dumps(document))
    for_tensorboard(trace)
    renamed = json.loads(trace.read_text())
    changed = {
        (before["cat"], after["cat"])
        for before, after in zip(document["traceEvents"], renamed["traceEvents"], strict=True)
        if before != after
    }
    assert changed == {
        ("cuda_runtime", "runtime"), ("cuda_driver", "runtime"), ("gpu_user_annotation", "device_annotation")
    }  # fmt: skip
    assert renamed["deviceProperties"] == document["deviceProperties"]
