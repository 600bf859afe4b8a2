"""A run goes on where it was cut off, whatever cut it off, with the same code on the same machine, and alone."""

import json
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from bench.rundir.case_store import read_records
from bench.rundir.directory import RunDirectory
from tests.bench.harness import Run, arguments

HERE = {
    "command": "pytest bench",
    "preset": "default",
    "revision": "0f" * 20,
    "dirty": False,
    "code": "ab" * 32,
    "cpu": "a CPU",
    "threads": 2,
    "packages": {"torch": "2.13.0", "numpy": "2.4.0"},
}
TASKS = {
    "tiny": {"metric": "accuracy", "source": "cd" * 32, "parts": {"file a.py": "1", "attribute b": "3"}},
}


@pytest.fixture
def part(tmp_path):
    """Opens the same run directory, after what opened it before has been cut off."""
    parts = []

    def opened(tasks=TASKS, process=0, **changed):
        for earlier in parts:
            earlier.close()
        parts.append(RunDirectory.create(tmp_path / "run", {**HERE, **changed}, tasks, process))
        return parts[-1]

    return opened


def environment(run):
    return json.loads((run.path / "environment.json").read_text())


def case(run, name, status="ok", **found):
    with run.case(case=name, kind="pruning", task="tiny", timed_by=name) as record:
        record |= found
        record["status"] = status


def test_what_has_ended_is_known_and_what_failed_is_tried_again(part):
    run = part()
    for status in ("ok", "failed", "out of memory", "skipped"):
        case(run, f"tiny-{status}", status)
    with pytest.raises(ZeroDivisionError), run.plan(plan="tiny-none"):
        1 / 0  # noqa: B018
    with run.plan(plan="tiny-dense"):
        pass
    again = part()
    ended = {name: again.has_case(f"tiny-{name}") for name in ("ok", "failed", "out of memory", "skipped", "other")}
    assert ended == {"ok": True, "failed": False, "out of memory": True, "skipped": True, "other": False}
    assert (again.has_plan("tiny-dense"), again.has_plan("tiny-none")) == (True, False)
    assert not part(process=1).has_case("tiny-ok")


def test_a_timing_of_an_earlier_part_is_found_by_what_was_timed(part):
    samples = [{"arm": "dense", "round": 0, "seconds": 0.25}]
    run = part()
    case(run, "a", shape=[2, 1], batch=3, dtype="float32", samples=samples)
    case(run, "b", shape=[2, 1], batch=3, dtype="float32", timed_by="a")
    case(run, "c", "failed", shape=[1, 1], batch=3, dtype="float32", samples=samples)
    again = part()
    assert again.timed(kind="pruning", task="tiny", shape=[2, 1], batch=3, mode="eager")["samples"] == samples
    assert again.timed(shape=[2, 1])["case"] == "a"
    assert [again.timed(shape=[1, 1]), again.timed(shape=[2, 1], batch=5), again.timed(mode="compile")] == [None] * 3
    assert part(process=1).timed(shape=[2, 1]) is None


def test_a_plan_is_not_made_again(part):
    keep = {"layers.0": [0, 2], "layers.1": []}
    with part().plan(plan="x", task="tiny", criterion="even", kept_fraction=0.5, draw=1, keep=keep):
        pass
    again = part()
    assert again.kept("tiny", "even", 0.5, 1) == keep
    assert [again.kept("tiny", "even", 0.5, 0), again.kept("tiny", "even", 0.25, 1)] == [None, None]


def test_tables_keep_the_rows_of_the_first_part(part):
    run = part()
    run.add_scores([("tiny", "taylor", "a", 0, 0.1, 2.0), ("tiny", "taylor", "a", 1, 1 / 3, 2.0)])
    run.add_promise(("tiny", "dense_at_least", 0.5, 0.4, 0.6, 0.7, False))
    run.add_predictions([("tiny", "cpu", "even", [2, 1], 0.5, 0.5, 0.4, 0.6, 0.0, "steady", 9)])
    run.add_attention({"tiny/plan": np.array("x")})
    before = (run.path / "predictions.csv").read_text()
    again = part()
    again.add_scores([("tiny", "gate", "a", 0, 0.3, 4.0)])
    again.add_promise(("tiny", "dense_at_least", 0.75, 0.6, 0.8, 0.7, True))
    again.add_attention({"other/plan": np.array("y")})
    again.assemble()
    assert pd.read_csv(run.path / "scores.csv")["score"].tolist() == [0.1, 1 / 3, 0.3]
    assert pd.read_csv(run.path / "promises.csv")["value"].tolist() == [0.75]
    assert (run.path / "predictions.csv").read_text() == before
    with np.load(run.path / "attention.npz") as arrays:
        assert {name: str(arrays[name]) for name in arrays} == {"tiny/plan": "x", "other/plan": "y"}
    assert again.has("scores.csv", task="tiny", criterion="taylor")
    assert not again.has("scores.csv", task="tiny", criterion="entropy")
    assert again.has("promises.csv", task="tiny", promise="dense_at_least", kept=True)
    assert not again.has("promises.csv", task="tiny", promise="dense_at_least", kept=False)
    assert [again.has("attention.npz", task=task) for task in ("tiny", "third")] == [True, False]


def test_what_is_measured_again_replaces_all_of_its_rows(part):
    profile = ("tiny", "cpu", "gate", 0.5, 3)
    part().add_operators([(*profile, "aten::mm", 4, 0.5, 0.0, 7), (*profile, "aten::add", 2, 0.1, 0.0, 7)])
    run = part()
    run.add_operators([(*profile, "aten::mm", 4, 0.25, 0.0, 7)])
    assert pd.read_csv(run.path / "operators.csv")[["operator", "seconds"]].values.tolist() == [["aten::mm", 0.25]]


def test_benchmarks_of_both_parts_are_kept(part, tmp_path):
    def finished(run, **medians):
        entries = [{"fullname": name, "stats": {"median": median}} for name, median in medians.items()]
        (tmp_path / "new.json").write_text(json.dumps({"version": "5.3.1", "benchmarks": entries}))
        run.finish(tmp_path / "new.json", interrupted=False)

    finished(part(), a=1.0, b=2.0)
    finished(part(), b=3.0, c=4.0)
    finished(part(process=1), a=5.0)
    (tmp_path / "new.json").write_text('{"benchmarks": [')  # as a full disk leaves it
    run = part()
    run.finish(tmp_path / "new.json", interrupted=False)
    found = {
        name: {entry["fullname"]: entry["stats"]["median"] for entry in json.loads(text)["benchmarks"]}
        for name in ("benchmarks.json", "benchmarks+1.json")
        for text in [(run.path / name).read_text()]
    }
    assert found == {"benchmarks.json": {"a": 1.0, "b": 3.0, "c": 4.0}, "benchmarks+1.json": {"a": 5.0}}


def test_the_environment_tells_of_both_parts(part):
    first = part()
    first.describe_task("tiny", {"heads": 6})
    first.finish(first.path / "missing.json", interrupted=True)
    begun = environment(first)
    second = part({"tiny": {**TASKS["tiny"], "batch_size": 32}, "other": {}}, command="pytest bench -k x", dirty=True)
    now = environment(second)
    assert begun["interrupted"] is True
    assert (now["created"], now["finished"], now["interrupted"]) == (begun["created"], None, False)
    assert (now["command"], now["commands"]) == ("pytest bench", ["pytest bench", "pytest bench -k x"])
    assert now["tasks"] == {"tiny": {**TASKS["tiny"], "heads": 6, "batch_size": 32}, "other": {}}
    assert now["dirty"] is True


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"revision": "1a" * 20}, "revision: 0f0f0f0f0f0f there, 1a1a1a1a1a1a here"),
        ({"code": "ef" * 32}, "code: abababababab there, efefefefefef here"),
        ({"cpu": None}, "cpu: a CPU there, not known here"),
        ({"threads": 1, "cpu": "other"}, "cpu: a CPU there, other here; threads: 2 there, 1 here"),
        ({"packages": {**HERE["packages"], "torch": "2.14.0"}}, r"packages, torch: 2.13.0 there, 2.14.0 here\."),
        ({"preset": "quick"}, "preset: default there, quick here"),
        (
            {"tasks": {"tiny": {**TASKS["tiny"], "source": "ef" * 32}}},
            "task tiny, source: cdcdcdcdcdcd there, efefefefefef here",
        ),
        (
            {"tasks": {"tiny": {"source": "ef" * 32, "parts": {"file a.py": "1", "class": "2", "attribute b": "4"}}}},
            "task tiny, attribute b: 3 there, 4 here; task tiny, class: not known there, 2 here",
        ),
        (
            {"tasks": {"tiny": {"source": None, "uncomparable": ["attribute b: a generator"]}}},
            r"task tiny can't be told from another \(attribute b: a generator\)",
        ),
    ],
)
def test_other_code_or_another_machine_is_refused(part, changed, message):
    before = environment(part())
    with pytest.raises(pytest.UsageError, match=rf"--run: .*run was not measured like this: {message}.*give another"):
        part(**changed)
    assert environment(part()) == before


def test_a_model_or_data_of_another_task_end_the_run(part):
    first = part()
    first.describe_task("tiny", {"weights": "aa", "calibration_data": None})
    first.describe_task("tiny", {"heads": 6})
    again = part()
    again.describe_task("tiny", {"weights": "aa", "calibration_data": "bb"})
    before = environment(again)
    for given, said in (
        ({"weights": "ac"}, "model.. gives other weights"),
        ({"calibration_data": "bc"}, "calibration.."),
    ):
        with pytest.raises(pytest.exit.Exception, match=rf"--run: task tiny: {said}.* than when .*give another --run"):
            again.describe_task("tiny", given)
    assert environment(again) == before
    assert {name: before["tasks"]["tiny"][name] for name in ("weights", "calibration_data", "heads")} == {
        "weights": "aa", "calibration_data": "bb", "heads": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "same"),
    [
        ([[1.0, 1e-3]] * 2000, True),
        ([[1.0 + 1e-6, 1e-3]] * 2000, True),
        ([[1.0, 1e-3]] * 1998 + [[0.0, 1e-3]] * 2, True),  # rounding may decide
        ([[1.0, 1e-3]] * 1997 + [[0.0, 1e-3]] * 3, False),
        ([[1.0, 2e-3]] * 2000, False),
        ([[1.0, 1e-3]] * 1999, False),
        ([1.0] * 2000, False),
    ],
)
def test_the_dense_model_has_the_values_that_it_had(part, values, same):
    with part().plan(plan="tiny-dense", task="tiny", criterion="dense", values=[[1.0, 1e-3]] * 2000):
        pass
    again = part()
    again.check_dense("other", np.zeros(3))
    if same:
        again.check_dense("tiny", np.array(values))
    else:
        with pytest.raises(pytest.exit.Exception, match=r"evaluate\(\) gives the dense model other values than when"):
            again.check_dense("tiny", np.array(values))


def test_two_at_once_are_refused(part):
    run = part()
    with pytest.raises(pytest.UsageError, match=rf"another benchmark is writing to {run.path}; wait .* another --run"):
        RunDirectory.create(run.path, HERE, TASKS)
    run.close()
    RunDirectory.create(run.path, HERE, TASKS).close()


def test_what_a_killed_process_left_is_cleared_away(part):
    run = part()
    case(run, "a")
    (run.path / "cases" / ".b.json.17-abcd.partial").touch()
    (run.path / ".environment.json.17-abcd.partial").touch()
    (run.path / "traces" / "a").mkdir(parents=True)
    (run.path / "traces" / "a" / ".a.pt.trace.json.17-abcd.partial").touch()
    (run.path / ".benchmarks+1.json.partial").touch()
    (run.path / "cases" / "c.json").touch()  # a power cut may keep a name and lose what stood there
    again = part()
    assert [path.name for path in again.path.rglob(".*")] == [".lock"]
    assert [record["case"] for record in read_records(again.path / "cases")] == ["a"]
    assert not again.has_case("c")


@pytest.mark.parametrize(
    "name",
    [".notes.partial", ".notes.txt.17-abcd.partial", "cases/.a.json.partial", "mine/.scores.csv.17-abcd.partial"],
)
def test_a_file_of_somebody_elses_stays_whatever_it_is_called(part, name):
    run = part()
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).write_text("mine")
    assert (part().path / name).read_text() == "mine"


WRITER = """
import json, os, random, sys, time
from pathlib import Path
from bench.rundir.directory import RunDirectory

def fill():
    run = RunDirectory.create(Path(sys.argv[1]), {}, {})
    for index in range(100):
        if not run.has_case(f"case-{index}"):
            with run.case(case=f"case-{index}") as record:
                record["samples"] = [{"arm": "dense", "round": i, "seconds": random.random()} for i in range(200)]
            run.add_scores([("tiny", f"criterion-{index}", "a", 0, random.random(), 1.0)])

for attempt in range(8):  # seven of them are killed, wherever they are
    child = os.fork()
    if not child:
        fill()
        os._exit(0)
    if attempt < 7:
        time.sleep(random.Random(attempt).uniform(0.005, 0.06))
        os.kill(child, 9)
    ending = os.waitpid(child, 0)[1]
    print(json.dumps([ending, {path.name: path.read_text() for path in Path(sys.argv[1], "cases").glob("*.json")}]))
"""


@pytest.mark.thorough  # at many further places; the sweep below is killed at two
def test_killed_wherever_it_is_a_run_keeps_every_finished_case(pytestconfig, tmp_path):
    line = [sys.executable, "-c", WRITER, str(tmp_path / "run")]
    done = subprocess.run(line, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True)
    endings, found = zip(*map(json.loads, done.stdout.splitlines()), strict=True)
    assert (endings[-1], endings.count(signal.SIGKILL) > 0) == (0, True)
    for earlier, later in pairwise(found):
        assert earlier.items() <= later.items()
    assert sorted(found[-1]) == sorted(f"case-{index}.json" for index in range(100))
    assert [path.name for path in (tmp_path / "run").rglob(".*")] == [".lock"]


OVERSIZED = """
from tests.bench.tiny_task import TinyTask

class Oversized(TinyTask):
    name = "oversized"
    dense_at_least = None

    def example(self, batch_size, seq_len=None):
        if batch_size == 7:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes")
        return super().example(batch_size, seq_len)

task = Oversized()
"""
SELECTED = "accuracy or latency and (magnitude or none) or scores"


@pytest.fixture
def sweep(forks, tmp_path):
    (tmp_path / "oversized.py").write_text(OVERSIZED)
    options = ["--task", f"{tmp_path / 'oversized.py'}:task", "--criteria", "magnitude,random", "--batch-sizes", "3,7"]
    return lambda: forks.start(arguments(tmp_path / "run", *options, "-k", f"oversized and ({SELECTED})"))


def finished(fork):
    return fork.wait(), fork.output()


def contents(directory):
    return {
        path.name: path.read_bytes() for folder in ("cases", "plans") for path in (directory / folder).glob("*.json")
    }


def test_a_sweep_that_is_killed_goes_on_and_memory_that_does_not_suffice_costs_only_its_case(sweep, tmp_path):
    run = Run(tmp_path / "run", 0, "")
    kept = {}
    for files in (1, 9):
        fork = sweep()
        while len(contents(run.path)) < files and fork.poll() is None:
            time.sleep(0.005)
        time.sleep(random.Random(files).uniform(0, 0.01))
        fork.send_signal(signal.SIGKILL)
        fork.wait()
        assert kept.items() <= contents(run.path).items()
        kept = contents(run.path)
    code, output = finished(sweep())
    assert code == 0, output
    whole = contents(run.path)
    assert kept.items() <= whole.items()
    assert f"are there already in {run.path}; " in output
    assert not list(run.path.rglob("*.partial"))
    statuses = {name: record["status"] for name, record in run.records("cases").items()}
    oversized = {name: status for name, status in statuses.items() if "-b7-" in name}
    plans = ("none", "magnitude-keep0.5", "magnitude-keep0.5-compensate")
    assert oversized == {f"oversized-{plan}-b7-cpu": "out of memory" for plan in plans}
    assert {statuses[name] for name in statuses.keys() - oversized.keys()} == {"ok"}
    assert "out of memory: oversized-none-b7-cpu: RuntimeError: DefaultCPUAllocator: can't allocate memory" in output
    assert set(pd.read_csv(run.path / "scores.csv")["criterion"]) == {"magnitude"}

    code, output = finished(sweep())
    assert (code, f"{len(whole) + 1} are there already in {run.path}; 0 to go" in output) == (0, True), output
    assert contents(run.path) == whole
    assert run.json("environment.json")["finished"]


CHANGING = """
from pathlib import Path
from tests.bench.tiny_task import TinyTask

class Changing(TinyTask):
    name = "changing"
    dense_at_least = None

    def __init__(self, steps=0):
        self.steps = steps

    def model(self):
        found = super().model()
        found.head.bias.data += float((Path(__file__).parent / "bias.txt").read_text())
        return found
"""


def test_a_run_never_goes_on_with_another_task(forks, tmp_path):
    """Another setting, in the user's file, of a class that stands elsewhere; and another file that the model reads."""
    (tmp_path / "changing.py").write_text(CHANGING)
    own = "import sys\nsys.path.append({folder!r})\nfrom changing import Changing\ntask = Changing({given})\n"
    line = arguments(tmp_path / "run", "--task", f"{tmp_path / 'mine.py'}:task", "-k", "accuracy and (dense or none)")

    def run(given="", bias="0"):
        (tmp_path / "mine.py").write_text(own.format(folder=str(tmp_path), given=given))
        (tmp_path / "bias.txt").write_text(bias)
        done = forks.start(line)
        return done.wait(), " ".join(done.output().split())

    assert run()[0] == 0
    (tmp_path / "run" / "plans" / "changing-none.json").unlink()
    code, said = run("steps=1")
    assert (code, "was not measured like this: task changing, file mine.py: " in said) == (4, True), said
    assert "; task changing, attribute steps: " in said
    code, said = run(bias="0.1")
    assert (code, "task changing: model() gives other weights than when the run in" in said) == (2, True), said
    assert set(contents(tmp_path / "run")) == {"changing-dense.json"}
