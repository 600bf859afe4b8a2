"""A real TensorBoard server with torch-tb-profiler reads our traces: it lists the runs and answers with our numbers.

Its charts load scripts from elsewhere and stay empty offline, so what is tested is the data behind them. What it says
of an accelerator is tested on a trace written by hand.
"""

import gzip
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
import torch

from bench.measure.calls import forward
from bench.profiles import PASSES, for_tensorboard, profiled
from bench.rundir.directory import RunDirectory
from tests.bench.chain import CALLS, Chain
from tests.bench.gpu_trace import COPY_US, KERNEL_US, STEPS, gpu_trace

pytest.importorskip("torch_tb_profiler", reason="the profile extra is not installed: pip install -e .[profile]")
RUNS = ["tiny-keep0.5-cpu", "tiny-keep1-cpu"]
ON_A_GPU = "gpu-keep1-cuda"
PATIENCE = 60.0  # seconds


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    run = RunDirectory.create(folder / "run", {}, {})
    for name in RUNS:
        rows = list(profiled(forward(Chain().eval(), (torch.randn(11, 37),)), "cpu", folder / "trace.json"))
        assert rows
        run.add_trace(name, folder / "trace.json")
    (folder / "trace.json").write_text(json.dumps(gpu_trace()))
    for_tensorboard(folder / "trace.json")
    run.add_trace(ON_A_GPU, folder / "trace.json")
    return run.path / "traces"


@pytest.fixture(scope="module")
def ask(traces):
    """Ask the plugin: a path and its query; the answer, parsed."""
    words = ["-m", "tensorboard.main", "--logdir", str(traces), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True) as server:
        try:
            seen = ""
            while not (found := re.search(r" at (http://127\.0\.0\.1:\d+)/", seen)):
                line = server.stderr.readline()
                assert line, f"TensorBoard did not start: {seen}"
                seen += line
            base = f"{found[1]}/data/plugin/pytorch_profiler"

            def ask(path, **query):
                with urllib.request.urlopen(f"{base}/{path}?{urllib.parse.urlencode(query)}", timeout=PATIENCE) as got:
                    body = got.read()
                return json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)

            end = time.monotonic() + PATIENCE
            while ask("runs")["loading"] or len(ask("runs")["runs"]) <= len(RUNS):
                assert time.monotonic() < end, ask("runs")
                time.sleep(0.2)
            yield ask
        finally:
            server.terminate()
            server.communicate()


def test_the_plugin_lists_our_runs_and_their_views(ask):
    assert ask("runs")["runs"] == [ON_A_GPU, *RUNS]
    for run in RUNS:
        assert {"Overview", "Operator", "Trace", "Memory"} <= set(ask("views", run=run))
        assert ask("workers", run=run, view="Overview") == [run]


@pytest.mark.parametrize("run", RUNS)
def test_its_endpoints_answer_with_our_numbers(ask, run):
    where = {"run": run, "worker": run, "span": ask("spans", run=run, worker=run)[0]}
    steps = ask("overview", **where)["steps"]["rows"]
    assert len(steps) == PASSES
    rows = ask("operation/table", group_by="Operation", **where)["data"]
    calls = {row["name"]: row["calls"] for row in rows}
    assert calls["aten::addmm"] == CALLS * PASSES
    assert calls["aten::softmax"] == PASSES
    events = ask("trace", **where)["traceEvents"]
    assert sum(event.get("name") == "aten::addmm" for event in events) == CALLS * PASSES


def test_time_on_a_device_belongs_to_the_operators_that_started_it(ask):
    where = {"run": ON_A_GPU, "worker": ON_A_GPU, "span": ask("spans", run=ON_A_GPU, worker=ON_A_GPU)[0]}
    assert "Kernel" in ask("views", run=ON_A_GPU)
    overview = ask("overview", **where)
    assert [row[0] for row in overview["steps"]["rows"]] == [str(step) for step in STEPS]
    average = {part["name"]: part["value"] for part in overview["performance"][0]["children"]}
    assert (average["Kernel"], average["Memcpy"]) == (KERNEL_US, COPY_US)
    rows = ask("operation/table", group_by="Operation", **where)["data"]
    on_device = {row["name"]: row["device_self_duration"] for row in rows}
    assert on_device == {"aten::addmm": KERNEL_US * len(STEPS), "aten::copy_": COPY_US * len(STEPS)}
    kernels = ask("kernel/table", group_by="Kernel", **where)["data"]["rows"]
    assert [row[:1] + row[2:4] for row in kernels] == [["sgemm_32x32", len(STEPS), KERNEL_US * len(STEPS)]]
