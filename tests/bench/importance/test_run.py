"""A run of the importance experiments, stopped, resumed and broken."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from filelock import FileLock

from bench.importance import work
from bench.importance.__main__ import main
from bench.importance.cases import ImportanceCase, cases
from bench.importance.records import read
from bench.importance.settings import QUICK
from bench.importance.summary import END, START, START_PRETRAINED, write_docs
from bench.importance.variants import variants
from tests.bench.importance.dying_worker import dies

FEW = ["--quick", "--jobs", "1", "--tasks", "planted_dead", "--criteria", "leave_one_out,magnitude"]


@pytest.fixture(autouse=True)
def _cache(monkeypatch, model_cache):
    monkeypatch.setenv("MHA_BENCH_CACHE", str(model_cache))


@pytest.fixture
def done(monkeypatch):
    """The ids of the cases that are worked on, in their order."""
    ids, run = [], work.run

    def counted(case, settings):
        ids.append(case.id)
        return run(case, settings)

    monkeypatch.setattr(work, "run", counted)
    return ids


def table(directory, name):
    return pd.read_csv(directory / f"{name}.csv")


def test_from_cases_to_tables_and_never_twice(tmp_path, done, capsys):
    assert main([*FEW, "--run", str(tmp_path)]) == 0
    assert set(done) == {f"planted_dead-s0-{case}" for case in (
        "truth", "subsets-0", "scores-leave_one_out", "scores-magnitude"
    )}  # fmt: skip
    planted = table(tmp_path, "planted").set_index("criterion")["right"]
    assert planted["leave_one_out"] == 1.0
    assert planted["magnitude"] < planted["random"] < planted["leave_one_out"]
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["finished"] is not None
    assert environment["interrupted"] is False
    assert "planted" in (tmp_path / "summary.md").read_text().lower()
    assert f"results: {tmp_path}" in capsys.readouterr().out

    before = (tmp_path / "planted.csv").read_bytes()
    assert main([*FEW, "--run", str(tmp_path)]) == 0
    assert len(done) == 4
    assert (tmp_path / "planted.csv").read_bytes() == before


def test_every_table_of_the_trained_tasks(tmp_path):
    some = ["--quick", "--jobs", "1", "--tasks", "small,dates", "--criteria", "taylor,magnitude,random"]
    assert main([*some, "--run", str(tmp_path)]) == 0
    for name in ("scores", "agreement", "curves", "areas", "exhaustive", "stability", "cost", "findings"):
        frame = table(tmp_path, name)
        assert set(frame["task"]) - {"all"} == ({"small", "dates"} if name != "exhaustive" else {"small"}), name
        assert {"taylor", "magnitude"} <= set(frame["criterion"]), name
    assert table(tmp_path, "planted").empty
    curves = table(tmp_path, "curves").query("task == 'small' and criterion == 'taylor'")
    assert curves["heads_kept"].tolist() == [0, 1, 2, 3, 4]
    assert (curves["low"] <= curves["value"]).all()
    assert (curves["value"] <= curves["high"]).all()
    assert {"loss without cross", "cross more than encoder"} <= set(table(tmp_path, "findings")["what"])


def test_what_is_stopped_goes_on(tmp_path, done, monkeypatch, capsys):
    counted = work.run

    def interrupted(case, settings):
        if len(done) == 2:
            raise KeyboardInterrupt
        return counted(case, settings)

    monkeypatch.setattr(work, "run", interrupted)
    assert main([*FEW, "--run", str(tmp_path)]) == 130
    assert f"goes on with the same options and --run {tmp_path}" in capsys.readouterr().err
    assert json.loads((tmp_path / "environment.json").read_text())["interrupted"] is True
    first = set(done)
    assert len(read(tmp_path)) == len(first) == 2
    monkeypatch.setattr(work, "run", counted)
    assert main([*FEW, "--run", str(tmp_path)]) == 0
    assert len(done) == len(set(done)) == 4


def test_a_criterion_that_raises_is_recorded_the_others_go_on_and_it_is_tried_again(
    tmp_path, done, monkeypatch, capsys
):
    counted = work.run

    def broken(case, settings):
        if case.detail == "magnitude":
            raise ArithmeticError("no magnitude today")
        return counted(case, settings)

    monkeypatch.setattr(work, "run", broken)
    assert main([*FEW, "--run", str(tmp_path)]) == 1
    assert "failed: planted_dead-s0-scores-magnitude: ArithmeticError: no magnitude today" in capsys.readouterr().err
    record = read(tmp_path)["planted_dead-s0-scores-magnitude"]
    assert record["status"] == "failed"
    assert "ArithmeticError: no magnitude today" in record["error"]
    assert set(table(tmp_path, "planted")["criterion"]) == {"leave_one_out", "random"}
    monkeypatch.setattr(work, "run", counted)
    assert main([*FEW, "--run", str(tmp_path)]) == 0
    assert len(done) == 4
    assert set(table(tmp_path, "planted")["criterion"]) == {"leave_one_out", "magnitude", "random"}


def test_two_at_once_are_refused(tmp_path, capsys):
    with FileLock(tmp_path / ".lock"):
        assert main([*FEW, "--run", str(tmp_path)]) == 2
    assert re.search("another process is at work in it; wait for it, or give another --run", capsys.readouterr().err)
    assert not (tmp_path / "environment.json").exists()


def test_results_of_other_settings_are_not_mixed(tmp_path, done, capsys):
    assert main([*FEW, "--run", str(tmp_path)]) == 0
    full = [word for word in FEW if word != "--quick"]
    assert main([*full, "--run", str(tmp_path)]) == 2
    assert "was begun with other settings" in capsys.readouterr().err
    (tmp_path / "environment.json").write_text('{"schema": 1}')
    assert main([*FEW, "--run", str(tmp_path)]) == 2
    assert "environment.json is not of an importance run" in capsys.readouterr().err
    assert len(done) == 4


def test_a_record_that_was_cut_off_is_made_again(tmp_path, done):
    assert main([*FEW, "--run", str(tmp_path)]) == 0
    path = tmp_path / "cases" / "planted_dead-s0-truth.json"
    path.write_text(path.read_text()[:100])
    assert main([*FEW, "--run", str(tmp_path)]) == 0
    assert done[4:] == ["planted_dead-s0-truth"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--criteria", "tailor"], "--criteria: unknown tailor; choose from .*taylor"),
        (["--tasks", "mnist"], "--tasks: unknown mnist; choose from .*digits"),
        (["--only", "planned"], "--only: unknown planned; choose from exhaustive, planted, held_out"),
        (["--tasks", "dates", "--only", "planted"], "--tasks: none of dates is in planted"),
        (["--seeds", "0"], "--seeds: expected a whole number from 1 up, got 0"),
        (["--jobs", "-1"], "--jobs: expected a whole number from 1 up, got -1"),
        (["--criteria", ","], "--criteria: expected one name or several"),
    ],
)
def test_options_that_are_not_possible(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert re.search(message, capsys.readouterr().err)


def test_whatever_criterion_there_is_takes_part():
    labels = variants()
    ids = {case.id for case in cases(QUICK, ["planted_dead", "small", "digits"], list(labels), seeds=2)}
    assert len(ids) == len(cases(QUICK, ["planted_dead", "small", "digits"], list(labels), seeds=2))
    for label in set(labels) - {"random"}:
        assert f"digits-s1-scores-{label}" in ids
    assert "digits-s0-scores-random@1" in ids
    assert "digits-s0-stability-shapley" not in ids  # scored again and again, on many heads


def test_a_worker_that_dies_fails_its_case_only(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_work", dies)
    (tmp_path / "cases").mkdir()
    outcomes = []
    two = [ImportanceCase("planted_dead", 0, "truth"), ImportanceCase("planted_dead", 0, "scores", "magnitude")]
    work.do_all(tmp_path, two, QUICK, 2, lambda case, outcome: outcomes.append((case, outcome["status"])))
    assert dict(outcomes) == dict.fromkeys(two, "failed")
    assert "ended with code 3" in read(tmp_path)["planted_dead-s0-truth"]["error"]


@pytest.mark.skipif(os.name != "posix", reason="kills a process by its id")
def test_a_run_that_is_killed_loses_nothing_that_was_finished(tmp_path):
    options = ["--quick", "--tasks", "planted_dead", "--criteria", "magnitude,leave_one_out"]
    command = [sys.executable, "-m", "bench.importance", *options, "--run", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not read(tmp_path):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "cases").glob("*.json")}
    assert main([*options, "--jobs", "1", "--run", str(tmp_path)]) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
    assert len(read(tmp_path)) == 4


def test_the_page_gets_the_results_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_docs(page, "new\n")
    write_docs(page, "newer\n")
    assert page.read_text() == f"before\n{START}\n\nnewer\n\n{END}\nafter\n"
    page.write_text(f"{START}\nold\n{END}\n{START_PRETRAINED}\nold\n{END}\n")
    write_docs(page, "new\n", START_PRETRAINED)
    assert page.read_text() == f"{START}\nold\n{END}\n{START_PRETRAINED}\n\nnew\n\n{END}\n"
    page.write_text("no markers")
    with pytest.raises(Exception, match=r"expected the lines .*, between which the results are written"):
        write_docs(page, "new")


def test_a_page_that_cannot_take_the_results_is_refused_before_anything_is_measured(tmp_path, capsys):
    options = ["--quick", "--only", "planted", "--run", str(tmp_path / "run"), "--docs", str(tmp_path / "missing.md")]
    assert main(options) == 2
    assert "missing.md: the page that results are to be written to can't be read" in capsys.readouterr().err
    assert not read(tmp_path / "run")
