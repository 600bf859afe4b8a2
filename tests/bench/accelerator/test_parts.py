"""Parts of a run on an accelerator: each ends in its time, and none takes another's."""

import re
import time
import zipfile
from pathlib import Path

import pytest
import torch

from bench.accelerator import __main__ as command
from bench.accelerator import parts
from bench.accelerator.parts import ROOT, TESTS, Part, run_part, run_parts

WAITING = "import time, pathlib, sys\ntry: time.sleep(60)\nexcept KeyboardInterrupt: pathlib.Path(sys.argv[1]).touch()"


def python(name, code, *words, **how):
    return Part(name, ("-c", code, *map(str, words)), how.pop("seconds", 30), **how)


def test_a_part_that_takes_too_long_is_interrupted_and_the_next_one_runs(tmp_path):
    late, good = tmp_path / "late", tmp_path / "good"
    wanted = [
        python("late", WAITING, late, seconds=1),
        python("broken", "raise SystemExit(3)"),
        python("good", "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ['X'])", good,
               environment={"X": "1"}),
        python("elsewhere", "", missing="it is not installed"),
    ]  # fmt: skip
    said = []
    found = {each["part"]: each for each in run_parts(wanted, 100, said.append)}
    assert [each["status"] for each in found.values()] == ["out of time", "failed", "ok", "left out"]
    assert late.exists()  # was interrupted, and could do what it does then
    assert good.read_text() == "1"
    assert found["broken"]["why"] == "it ended with exit code 3; what it printed is above"
    assert found["elsewhere"]["why"] == "it is not installed"
    assert said[0] == "late: at most 1 s"


def test_a_part_that_does_not_let_itself_be_interrupted_is_killed(monkeypatch):
    monkeypatch.setattr(parts, "GRACE", 1.0)
    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    start = time.monotonic()
    assert run_part(python("stubborn", stubborn), 1.0)["status"] == "out of time"
    assert time.monotonic() - start < 20


def test_without_time_nothing_is_begun():
    (outcome,) = run_parts([python("any", "raise SystemExit(1)")], 5, print)
    assert (outcome["status"], outcome["why"]) == ("left out", "no time was left of 5 s")


def test_the_parts_name_files_that_are_there(tmp_path):
    for quick in (False, True):
        for part in parts.parts(tmp_path / "run", "cpu", quick=quick, tasks=("sentences",)):
            files = [word for word in part.arguments if word.endswith(".py")]
            assert all((ROOT / file).exists() for file in files), part.name
    assert all((ROOT / file).exists() for file in TESTS)


def test_tests_that_need_an_accelerator_are_among_those_that_run_there():
    marked = re.compile(r"skipif\(not torch\.cuda\.is_available|MHA_TEST_DEVICE")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if path != Path(__file__) and marked.search(path.read_text(encoding="utf-8"))
    }
    assert found == {*TESTS}


def test_what_is_packed_is_the_run_at_the_top_and_what_is_beside_it(tmp_path):
    run, beside = tmp_path / "run", tmp_path / "run-more"
    for path in (run / "cases" / "a.json", run / ".lock", beside / "gate" / "sides" / "x.py", beside / "log.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    command.pack(run, beside, tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as packed:
        assert packed.namelist() == ["cases/a.json", "more/log.txt"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("version", "device", "message"),
    [
        ("2.9.1", "cpu", "torch 2.9.1 is installed, and 2.11 or newer is needed"),
        ("2.13.0+cpu", "cuda:7", r"--device: 'cuda:7' is not here; this machine has .*--quick --device cpu"),
    ],
)
def test_a_machine_that_is_not_fit_is_told_why(monkeypatch, capsys, version, device, message):
    monkeypatch.setattr(torch, "__version__", version)
    assert command.main(["--device", device]) == 2
    assert re.search(message, capsys.readouterr().out)


@pytest.mark.thorough  # its parts are tried above, and pytest bench elsewhere
def test_the_reduced_form_measures_on_a_cpu(tmp_path, capsys):
    only = ("--only", "ceilings")
    assert command.main(["-o", str(tmp_path / "run"), "--device", "cpu", "--quick", *only, "--seconds", "100"]) == 0
    assert "ceilings: ok in" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "run.zip") as packed:
        assert {"environment.json", "ceilings.csv", "more/targets.json"} <= {*packed.namelist()}
