"""A real TensorBoard server with torch-tb-profiler reads our traces: it lists the runs and answers with our numbers.

Its charts load scripts from elsewhere and stay empty offline, so what is tested is the data behind them; the kernel
view needs an accelerator.
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

from bench.calls import forward
from bench.profiles import PASSES, profiled
from bench.rundir import RunDirectory
from tests.bench.test_profiles import CALLS, Chain

pytest.importorskip("torch_tb_profiler", reason="the profile extra is not installed: pip install -e .[profile]")
RUNS = ["tiny-keep0.5-cpu", "tiny-keep1-cpu"]
PATIENCE = 60.0  # seconds


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    run = RunDirectory.create(folder / "run", {}, {})
    for name in RUNS:
        rows = list(profiled(forward(Chain().eval(), (torch.randn(11, 37),)), "cpu", folder / "trace.json"))
        assert rows
        run.add_trace(name, folder / "trace.json")
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
            while ask("runs")["loading"] or len(ask("runs")["runs"]) < len(RUNS):
                assert time.monotonic() < end, ask("runs")
                time.sleep(0.2)
            yield ask
        finally:
            server.terminate()
            server.communicate()


def test_the_plugin_lists_our_runs_and_their_views(ask):
    assert ask("runs")["runs"] == RUNS
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
