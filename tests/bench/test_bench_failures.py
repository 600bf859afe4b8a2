"""`pytest bench` when something is wrong: a case that raises, a run that is cut off, an option that can't be."""

import json
import signal
import time

import pandas as pd
import pytest

from reports.read.load import load
from tests.bench.harness import TINY, Run, arguments

AILING = """
import os
import sys
import time
from tests.bench.tiny_task import TinyTask

class Ailing(TinyTask):
    name = "ailing"
    dense_at_least = 1.01

    def model(self):
        print("training ailing: 42 %", file=sys.stderr)
        return super().model()

    def evaluate(self, model):
        if not any(layer.num_heads for layer in model.layers):
            {what}
        return super().evaluate(model)

    def example(self, batch_size, seq_len=None):
        if batch_size == 7:
            raise ValueError("no batches of seven")
        return super().example(batch_size, seq_len)

task = Ailing()
"""


def test_what_fails_is_recorded_and_the_others_go_on(bench, tmp_path):
    (tmp_path / "ailing.py").write_text(AILING.format(what='raise ValueError("nothing to judge")'))
    options = ["--criteria", "magnitude,even", "--batch-sizes", "3,7", "--benchmark-json", str(tmp_path / "mine.json")]
    run = bench("--task", f"{tmp_path / 'ailing.py'}:task", *options, "-k", "ailing and not predicted and not maps")
    plans, cases = run.records("plans"), run.records("cases")
    assert run.code == 1
    assert {name for name, plan in plans.items() if plan["status"] == "failed"} == {"ailing-none"}
    assert "ValueError: nothing to judge" in plans["ailing-none"]["error"]
    assert set(pd.read_csv(run.path / "plans.csv")["plan"]) == set(plans) - {"ailing-none"}
    assert {case["batch"] for case in cases.values() if case["status"] == "ok"} == {3}
    failed = [case for case in cases.values() if case["batch"] == 7]
    shown = ("none", "magnitude-keep0.5", "magnitude-keep0.5-compensate", "even-keep0.5")
    assert {case["case"] for case in failed} == {f"ailing-{plan}-b7-cpu" for plan in shown}
    assert all(case["status"] == "failed" and "no batches of seven" in case["error"] for case in failed)
    assert run.json("environment.json")["finished"]
    assert run.output.count("training ailing: 42 %") == 1  # shown while the tests run, though none of it failed
    assert "failed: ailing-none: ValueError: nothing to judge" in run.output
    assert "broken: task ailing states dense_at_least = 1.01; measured" in run.output
    assert run.json("benchmarks.json") == json.loads((tmp_path / "mine.json").read_text())


WARNING = """
import sys
import warnings
from pathlib import Path
from tests.bench.tiny_task import TinyTask

class Warning_(TinyTask):
    name = "warning"
    dense_at_least = 0.0

    def model(self):
        warnings.warn("the model is old", FutureWarning)
        return super().model()

    def calibration(self):
        if Path(__file__).with_name("ill").exists():
            sys.exit("no data today")
        return super().calibration()

    def example(self, batch_size, seq_len=None):
        warnings.warn("an example of one kind")
        return super().example(batch_size, seq_len)

warnings.warn("imported")
task = Warning_()
"""


def test_a_tasks_warnings_fail_nothing_and_a_step_that_fails_is_told(bench, tmp_path):
    """Beside cases and plans also what fills a table: scores, predictions, and whatever the task's own code raises."""
    (tmp_path / "warning.py").write_text(WARNING)
    (tmp_path / "ill").touch()
    options = ("--task", f"{tmp_path / 'warning.py'}:task", "--criteria", "taylor", "-W", "default")
    run = bench(*options, "-k", "warning and not maps and not generation and not random and not even")
    assert run.code == 1, run.output
    assert "the model is old" in run.output
    cases, plans, steps = map(run.records, ("cases", "plans", "steps"))
    statuses = {name: record["status"] for name, record in {**cases, **plans, **steps}.items()}
    plans_without_scores = ("keep0.5-0", "keep0.5-b3-cpu", "keep0.5-compensate-0", "keep0.5-compensate-b3-cpu")
    steps_without_scores = {
        f"{what}-warning-taylor-{name}"
        for what in ("slices", "calibration", "texts")
        for name in ("keep0.5-0", "keep0.5-compensate-0")
    }
    ill = {"scores-warning-taylor", *(f"warning-taylor-{name}" for name in plans_without_scores)} | steps_without_scores
    assert {name for name, status in statuses.items() if status == "failed"} == ill
    assert {*statuses.values()} == {"failed", "ok"}
    assert "SystemExit: no data today" in steps["scores-warning-taylor"]["error"]
    assert "failed: scores-warning-taylor: SystemExit: no data today" in run.output
    failed = load(run.path).unfinished
    assert {*failed["name"]} == ill
    assert pd.read_csv(run.path / "predictions.csv")["task"].unique().tolist() == ["warning"]


KILLED = pytest.param(signal.SIGKILL, id="killed", marks=pytest.mark.thorough)  # test_resume kills a run, too


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, id="Ctrl-C"), KILLED])
def test_a_run_that_is_cut_off_keeps_what_is_finished(forks, tmp_path, how):
    well = tmp_path / "well"
    (tmp_path / "ailing.py").write_text(AILING.format(what=f"time.sleep(0 if os.path.exists({str(well)!r}) else 600)"))
    run = Run(tmp_path / "run", 0, "")
    line = arguments(run.path, "--task", f"{tmp_path / 'ailing.py'}:task", "--criteria", "magnitude", "-k", "accuracy")
    first = forks.start(line)
    while not (run.path / "plans" / "ailing-dense.json").exists():
        assert first.poll() is None, first.output()
        time.sleep(0.02)
    second = forks.start(line)
    refused = second.wait()
    first.send_signal(how)
    code = first.wait(60)
    assert refused == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: --run: another benchmark is writing to {run.path}; wait until" in second.output()
    environment = run.json("environment.json")
    assert run.records("plans")["ailing-dense"]["status"] == "ok"
    if how == signal.SIGKILL:
        assert environment["finished"] is None
    else:
        assert code == pytest.ExitCode.INTERRUPTED
        assert (bool(environment["finished"]), environment["interrupted"]) == (True, True)
        assert pd.read_csv(run.path / "plans.csv")["plan"].tolist() == ["ailing-dense"]
        assert len(pd.read_parquet(run.path / "examples.parquet")) == 101
        assert pd.read_csv(run.path / "scores.csv").empty
    dense = (run.path / "plans" / "ailing-dense.json").read_bytes()
    well.touch()
    done = forks.start(line)
    assert done.wait() == 0, done.output()
    assert "1 are there already in " in done.output()
    assert (run.path / "plans" / "ailing-dense.json").read_bytes() == dense
    assert run.json("environment.json")["interrupted"] is False
    assert "ailing-none" in pd.read_csv(run.path / "plans.csv")["plan"].tolist()


def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room(forks, tmp_path):
    run = Run(tmp_path / "run", 0, "")
    options = ["--criteria", "magnitude", "-k", "accuracy"]
    line = arguments(run.path, "--task", TINY, *options)
    done = forks.start([*line, "-p", "tests.bench.full_disk"], FULL_AT="tiny-none.json")
    assert done.wait() == pytest.ExitCode.INTERRUPTED
    assert f"{run.path / 'plans' / 'tiny-none.json'} can't be written (No space left on device)" in done.output()
    assert set(run.records("plans")) == {"tiny-dense"}
    assert not list(run.path.rglob("*.partial"))
    done = forks.start(line)
    assert done.wait() == 0, done.output()
    assert set(run.records("plans")) == {
        "tiny-dense", "tiny-none", "tiny-magnitude-keep0.5-0", "tiny-magnitude-keep0.5-compensate-0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--task", TINY, "--criteria", "tailor"],
            "ERROR: --criteria: unknown 'tailor'; choose from confidence, entropy, fisher,",
        ),
        (["--task", TINY, "--run=pyproject.toml/run"], "ERROR: --run: pyproject.toml/run can't be written"),
    ],
)
def test_a_wrong_option_is_a_usage_error(bench, options, message):
    run = bench(*options)
    assert (run.code, message in run.output) == (pytest.ExitCode.USAGE_ERROR, True), run.output
    assert not run.path.exists()


def test_looking_at_the_cases_makes_no_directory(bench):
    run = bench("--task", TINY, "--collect-only", "-q")
    assert run.code == 0
    assert not run.path.exists()
    for case in ("test_accuracy[tiny-random-keep0.5-draw4]", "test_latency[tiny-taylor-keep0.5-b3-cpu]"):
        assert f"bench/bench_pruning.py::{case}" in run.output.splitlines()
