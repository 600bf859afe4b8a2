"""Traces and the table of operators: ours, whole, and counted by hand."""

import json

import pandas as pd
import pytest
import torch
from torch import nn

from bench.calls import forward
from bench.profiles import PASSES, profiled
from bench.rundir import RunDirectory
from bench.terminal import summary

CALLS = 3


class Chain(nn.Module):
    """Three matrix products and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(37, 37) for _ in range(CALLS))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.softmax(-1)


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
    run.assemble()
    frame = pd.read_csv(run.path / "operators.csv")
    assert frame.groupby("kept_fraction")["seconds"].sum().to_dict() == pytest.approx({1.0: 0.0041, 0.5: 0.0026})
    assert sorted(path.name for path in (run.path / "traces").iterdir()) == ["tiny-keep0.5-cpu", "tiny-keep1-cpu"]
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in summary(run.path)]
    assert ["aten::addmm", "4.000", "2.500"] in lines
    assert ["sum", "4.100", "2.600"] in lines
    assert any("Perfetto" in line for line in summary(run.path))
