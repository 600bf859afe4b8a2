"""The whole gate on a tiny project: git, processes that take turns, verdicts. Its `mha` is a few lines of Python."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from bench.regress import __main__ as command
from bench.regress import interleaving as turns
from bench.regress import measuring
from bench.regress import verdict_rows as rows
from bench.regress.rounds import measure_round
from bench.regress.verdict import Rules
from bench.regress.workers import Arm, Worker

ROOT = Path(__file__).parents[3]
LIBRARY = """
def work(steps={steps}):
    total = 0
    for step in range(steps):
        total += step
    return total
"""
BENCHMARKS = """
import pytest
import mha

@pytest.mark.parametrize("name", ["dense", "half"])
def test_work(name, benchmark):
    benchmark(mha.work, *([9000] if name == "half" else []))

def test_setup(benchmark):
    made = []
    benchmark.pedantic(lambda x: made.append(x), setup=lambda: ((1,), {}), rounds=3)
    assert set(made) == {1}
"""
FIGURES = """
import mha

def test_figures(benchmark):
    benchmark.name = "dense"
    benchmark.extra_info["exact"] = benchmark.pedantic(lambda: {"parameters": mha.PARAMETERS}, rounds=1)
"""
RATIOS = """
import os
import random
import mha

def test_ratio(benchmark):
    value = mha.SPEEDUP * random.Random(os.getpid()).uniform(0.995, 1.005)
    benchmark.extra_info["speedups"] = {"dense": {"value": value}}
    benchmark.pedantic(mha.work, rounds=1)
"""
CONTROL = """
def test_control(benchmark):
    benchmark(sum, range(20_000))
"""
PLUGIN = (  # with what it imports
    *("bench/__init__.py", "bench/regress/__init__.py", "bench/regress/interleaving.py"),
    *("bench/measure/__init__.py", "bench/measure/errors.py", "bench/measure/replay_clock.py"),
)
PROJECT = """
[project]
name = "mha"
[tool.pytest.ini_options]
pythonpath = ["."]
addopts = "-p no:anyio -p no:hypothesispytest -p no:xdist -p no:xdist.looponfail"  # to import them takes half a second
"""
FILES = tuple(f"bench/regress/bench_{name}.py" for name in ("gate", "figures", "control", "ratios"))


def git(where, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *identity, *words], cwd=where, check=True, capture_output=True)


def write_library(where, steps=6000, parameters=12, speedup=2.0, more=""):
    constants = f"PARAMETERS = {parameters}\nSPEEDUP = {speedup}\n"
    (where / "mha" / "__init__.py").write_text(f"{constants}{LIBRARY.format(steps=steps)}{more}")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with one commit, which is the working directory; what is measured is little."""
    where = tmp_path / "project"
    (where / "mha").mkdir(parents=True)
    for name in PLUGIN:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, where / name)
    for name, text in zip(FILES, (BENCHMARKS, FIGURES, CONTROL, RATIOS), strict=True):
        (where / name).write_text(text)
    (where / "pyproject.toml").write_text(PROJECT)
    (where / "constraints.txt").write_text("")
    (where / ".gitignore").write_text("runs/\n__pycache__/\n")
    write_library(where)
    git(where, "init", "-q", "-b", "main")
    git(where, "add", "-A")
    git(where, "commit", "-q", "-m", "one")
    monkeypatch.chdir(where)
    quickly(monkeypatch)
    return where


def quickly(monkeypatch):
    """Few rounds, little sampling, and nothing but the large changes of these tests counts."""
    rules = Rules(least=0.2, blind=1.0)
    monkeypatch.setattr(command, "GateOptions", partial(measuring.GateOptions, seconds=0.02, rules=rules))
    for module in (measuring, rows):
        monkeypatch.setattr(module, "wanted_rounds", lambda *_: 6)
        monkeypatch.setattr(module, "TIMES", 1)
    monkeypatch.setattr(measuring, "FEWEST", 6)
    monkeypatch.setattr(rows, "BUSY", 100.0)  # other tests may run beside


def gate(*words):
    return command.main(["--base", "main", "--here", "--run", "runs/gate", *words])


def verdict(where):
    return json.loads((where / "runs/gate/verdict.json").read_text())


def test_a_slower_library_is_found_confirmed_and_told(project, capsys):
    write_library(project, steps=9000, parameters=13)
    assert gate() == 1
    found = verdict(project)
    seen = {row["name"]: row for row in found["benchmarks"]}
    assert found["verdict"] == "REGRESSED"
    assert seen["dense"]["verdict"] == "REGRESSED"
    assert seen["dense"]["effect"] == pytest.approx(0.5, abs=0.15)
    assert (seen["dense"]["rounds"], seen["dense"]["screen"]["rounds"]) == (6, 6)
    assert seen["half"]["verdict"] == "PASS"  # the same steps on both sides
    assert {(row["figure"], row["verdict"], row["base"], row["head"]) for row in found["figures"]} == {
        ("parameters", "REGRESSED", 12, 13)
    }
    assert found["head"]["dirty"] is True
    shown = capsys.readouterr().out
    assert "REGRESSED" in shown
    assert "tree is dirty" in shown
    assert "dense" in (project / "runs/gate/summary.md").read_text()
    assert "<failure" in (project / "runs/gate/junit.xml").read_text()
    assert not (project / "runs/gate/sides").exists()
    assert subprocess.run(["git", "worktree", "list"], cwd=project, capture_output=True).stdout.count(b"\n") == 1


def test_a_stored_run_serves_ratios_and_exact_figures_alone(project, capsys):
    stored = str(project / "stored.json")
    assert command.main(["--record", stored, "--run", "runs/stored"]) == 0
    write_library(project, steps=60_000, parameters=11, speedup=1.4)
    assert command.main(["--baseline", stored, "--run", "runs/other"]) == 1
    found = json.loads((project / "runs/other/verdict.json").read_text())
    (row,) = found["benchmarks"]
    assert (row["name"], row["kind"], row["verdict"]) == ("test_ratio", "ratio", "REGRESSED")
    assert (row["base"], row["head"]) == pytest.approx((1 / 2.0, 1 / 1.4), rel=0.01)
    assert row["effect"] == pytest.approx(2.0 / 1.4 - 1, abs=0.02)
    assert [(row["figure"], row["verdict"]) for row in found["figures"]] == [("parameters", "IMPROVED")]
    assert "Absolute times belong to the machine" in found["why"][0]
    assert found["control"] is None
    capsys.readouterr()
    for file, said in (
        ("pyproject.toml", "is no JSON"),
        ("runs/other/verdict.json", "are never compared"),
        ("a", "no such"),
    ):
        assert command.main(["--baseline", str(project / file), "--run", "runs/third"]) == 4
        assert said in capsys.readouterr().err


def test_new_and_lost_benchmarks(project, monkeypatch):
    monkeypatch.setattr(measuring, "wanted_rounds", lambda *_: 1)  # what can't be compared needs no more
    bench = project / FILES[0]
    bench.write_text(BENCHMARKS + "\ndef test_new(benchmark):\n    benchmark(mha.newer)\n")
    bench.write_text(bench.read_text().replace("def test_setup", "def test_renamed"))
    write_library(project, more="\ndef newer():\n    return 1\n")
    assert gate() == 4
    seen = {row["name"]: (row["verdict"], row["why"]) for row in verdict(project)["benchmarks"]}
    assert seen["test_new"][0] == "NEW"
    assert "has no attribute 'newer'" in seen["test_new"][1]
    assert seen["test_setup"][0] == "ERROR"
    assert "only the base has it" in seen["test_setup"][1]


ODD = """
import pytest
import mha

def test_twice(benchmark):
    benchmark(mha.work)
    benchmark(mha.work)

def test_never(benchmark):
    mha.work()

@pytest.mark.skipif(mha.PARAMETERS > 0, reason="needs a GPU\\nof two lines")
def test_marked(benchmark):
    benchmark(mha.work)

def test_within(benchmark):
    benchmark(mha.work)
    pytest.skip("after all")

@pytest.mark.xfail(reason="not yet", strict=True)
def test_expected(benchmark):
    benchmark(mha.nothing)

@pytest.mark.skipif(not hasattr(mha, "newer"), reason="needs newer")
def test_newer(benchmark):
    benchmark(mha.work)
"""


def test_what_benchmarks_of_ones_own_do_is_told_in_a_sentence(project, monkeypatch, capsys):
    monkeypatch.setattr(measuring, "wanted_rounds", lambda *_: 1)  # what can't be compared needs no more
    (project / "bench_odd.py").write_text(ODD)
    (project / "bench_whole.py").write_text("import pytest\n\npytest.skip('not here', allow_module_level=True)\n")
    write_library(project, more="\ndef newer():\n    return 1\n")
    assert gate("--benchmarks", "bench_odd.py", "--benchmarks", "bench_whole.py") == 4
    assert {row["name"]: (row["verdict"], row["why"]) for row in verdict(project)["benchmarks"]} == {
        "test_twice": ("ERROR", f"it fails on both sides: FixtureAlreadyUsed: {turns.TWICE}"),
        "test_never": ("ERROR", f"it fails on both sides: {turns.UNUSED}"),
        "test_marked": ("SKIPPED", "it is skipped: needs a GPU"),
        "test_within": ("SKIPPED", "it is skipped: after all"),
        "test_expected": ("SKIPPED", "it is skipped: not yet"),
        "test_newer": ("NEW", "the base skips it: needs newer"),
        "bench_whole.py": ("SKIPPED", "it is skipped: not here"),
    }
    assert "test_marked: it is skipped: needs a GPU" in " ".join(capsys.readouterr().out.split())


def test_an_interrupted_run_goes_on_where_it_was(project, monkeypatch, capsys):
    calls = iter([measuring.measure_round, interrupted])
    monkeypatch.setattr(measuring, "measure_round", lambda *args, **kwargs: next(calls)(*args, **kwargs))
    assert gate() == 130
    assert "interrupted; go on by the same command with --run runs/gate" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(project)
    first = project / "runs/gate/rounds/0000.json"
    before = first.read_bytes()
    quickly(monkeypatch)
    monkeypatch.setattr(measuring, "measure_round", cache_of_one(measuring.measure_round))
    assert gate() == 0
    assert first.read_bytes() == before
    assert len(list(first.parent.iterdir())) == 6
    write_library(project, steps=6001)
    assert gate() == 4
    assert "was begun with something else (commits); give another --run" in capsys.readouterr().err


def cache_of_one(measure):
    """The first round that is measured, every time: what is tested is which rounds there are, and not their times."""
    measured = []
    return lambda *args, **kwargs: (measured or measured.append(measure(*args, **kwargs)) or measured)[0]


def interrupted(*_args, **_kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda where: (where / FILES[0]).write_text("import nothing_of_this_name\n"),
            "No module named 'nothing_of_this_name'",
        ),
        pytest.param(
            lambda where: (where / FILES[0]).unlink(), "file or directory not found", marks=pytest.mark.thorough
        ),
    ],
)
def test_no_common_benchmarks(project, capsys, break_it, said):
    break_it(project)
    assert gate() in (3, 4)
    captured = capsys.readouterr()
    assert said in " ".join((captured.out + captured.err).split())


def test_a_process_that_dies_is_told_with_its_last_words(project):
    (project / FILES[0]).write_text(
        "import os\n\ndef test_dies(benchmark):\n    os.write(2, b'so long')\n    os._exit(7)\n"
    )
    arm = Arm("head", project, Path(sys.executable))
    with pytest.raises(command.GateError, match=r"head: a process of pytest ended early \(exit code 7\)"):
        measure_round([arm], [FILES[0]], project, seconds=0.01, seed=0)


def test_samples_are_those_of_pytest_benchmark(project):
    arm = Arm("head", project, Path(sys.executable))
    report = project / "report.json"
    with Worker(arm, 0, [FILES[0]], report, 1) as worker:
        worker.wait_until_collected()
        names = worker.collected
        assert [name.rpartition("::")[2] for name in names] == ["test_work[dense]", "test_work[half]", "test_setup"]
        assert worker.begin(names[0], names[2]) > 0
        assert worker.sample(3)
        assert worker.sample(3)
        worker.end()
        worker.begin(names[2], None)
        assert worker.sample(5)
        worker.end()
        worker.stop()
        worker.wait()
    entries = {entry["name"]: entry for entry in json.loads(report.read_text())["benchmarks"]}
    assert [len(entry["stats"]["data"]) for entry in entries.values()] == [2, 1]
    assert entries["test_work[dense]"]["stats"]["iterations"] == 3
    assert entries["test_setup"]["stats"]["iterations"] == 1  # with a setup, a call is a sample
    assert 1e-5 < entries["test_work[dense]"]["stats"]["median"] < 1e-1
