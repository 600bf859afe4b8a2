"""A run is read as it was written; what is no run at all is refused in words."""

import numpy as np
import pandas as pd
import pytest

from reports.base.errors import ReportError
from reports.read.load import load
from tests.reports.damaging import CASE, cut, cut_off, edit, plan_files
from tests.reports.synthetic import PLAN_COLUMNS


def test_a_run_is_read_as_written(full_run):
    run = load(full_run)
    assert run.name == "full"
    assert run.path == full_run
    assert run.tasks == ("digits",)
    assert run.criteria == ("magnitude", "taylor", "random")
    assert len(run.cases) == 22
    assert len(run.samples) == 18 * 2 * 11
    assert not run.samples["case"].str.contains("magnitude").any()
    assert run.unfinished["name"].tolist() == ["digits-gate-keep0.5-b2-cpu", "digits-gate-keep0.5-0"]
    assert run.plans["value"].iloc[0] == 0.97
    assert run.notes == ()
    assert list(run.left_out.columns) == ["what", "reason"]
    assert run.left_out.empty
    first, second = run.attention
    assert first.layer == "blocks.0.attention"
    assert first.heads == (1, 4, 6)
    assert first.dense.shape == (8, 5, 7)
    assert second.heads == ()
    np.testing.assert_allclose(run.log_ratios["digits-taylor-keep0.25-b2-cpu", "dense", "pruned"], np.log(4.0))


def test_kept_fractions_survive_the_csv_to_the_last_bit(write_run):
    third = 1 / 3
    path = write_run(change=lambda run: run.plan("digits", "taylor", third, 0.9))
    assert third in load(path).plans["kept_fraction"].tolist()


def test_what_is_missing_is_noted(minimal_run, write_run):
    assert load(minimal_run).notes == ()

    def bare(run):
        run.plans, run.scores, run.attention = [], [], {}
        run.environment["interrupted"] = True

    run = load(write_run(change=bare))
    notes = " ".join(run.notes)
    for expected in ("interrupted", "plans.csv", "scores.csv", "examples.parquet", "attention.npz"):
        assert expected in notes
    assert run.left_out.empty


def test_tables_without_rows_are_no_error(write_run):
    path = write_run()
    for name in ("plans.csv", "scores.csv"):
        (path / name).write_text((path / name).read_text().splitlines()[0] + "\n")
    np.savez(path / "attention.npz")
    run = load(path)
    assert (len(run.plans), len(run.scores), len(run.attention), len(run.left_out)) == (0, 0, 0, 0)


def test_cases_whose_shape_could_not_be_timed_are_noted(write_run):
    path = write_run()
    edit(path / CASE, status="failed", error="out of memory")
    assert "1 case has no latency" in " ".join(load(path).notes)


def test_nothing_there(tmp_path):
    with pytest.raises(ReportError, match=r"nowhere: expected a run directory, found nothing; give the directory"):
        load(tmp_path / "nowhere")


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ReportError, match=r"run: expected a run directory, found a file that is no whole \.zip"):
        load(tmp_path / "run")


def test_no_environment(tmp_path):
    with pytest.raises(ReportError, match=r"environment\.json in it, which is not there"):
        load(tmp_path)


def test_unknown_schema(write_run):
    path = write_run(change=lambda run: run.environment.update(schema=2))
    with pytest.raises(ReportError, match=r"environment\.json: expected schema 1, got 2; use the reports that came"):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", r"environment\.json: expected a JSON object, got list"),
        ("{", r"environment\.json: expected a JSON object, but it is cut off"),
        ("", r"environment\.json: expected a JSON object, but it is cut off"),
        ("\0PNG", r"environment\.json: expected a JSON object, but .* not of that format"),
        ("[" * 100_000, r"environment\.json: expected a JSON object, but .* not of that format \(maximum recursion"),
        ('{"schema": 1}', r"missing 'created', 'finished', 'tasks', found 'schema'"),
        ('{"schema": 1, "created": "", "finished": 3, "tasks": {}}', r"expected str or null for 'finished', got 3"),
        ('{"schema": 1, "created": "\\ud800", "finished": null, "tasks": {}}', r"surrogates not allowed"),
    ],
)
def test_an_environment_that_tells_nothing(write_run, content, message):
    path = write_run()
    (path / "environment.json").write_text(content)
    with pytest.raises(ReportError, match=message):
        load(path)


def nothing_but_cases(run) -> None:
    run.plans, run.scores, run.attention = [], [], {}
    run.tables.clear()


def test_a_run_of_which_nothing_can_be_used(write_run):
    path = write_run(change=nothing_but_cases)
    for file in (path / "cases").glob("*.json"):
        edit(file, status="failed", error="Traceback\nMemoryError: too big")
    with pytest.raises(ReportError, match=r"found none \(23 failed, the first with: MemoryError: too big\); mend what"):
        load(path)
    for file in (path / "cases").glob("*.json"):
        file.write_text("{")
    with pytest.raises(ReportError, match=r"\(0 failed; left out, among others: 23 files in cases/, .*cut off"):
        load(path)


def test_a_run_that_was_cut_off_before_anything_had_ended(write_run):
    def change(run):
        nothing_but_cases(run)
        run.environment["finished"] = None

    path = write_run(change=change)
    for file in (path / "cases").glob("*.json"):
        file.unlink()
    with pytest.raises(
        ReportError, match=r'found none \(0 failed\); the run was cut off \("finished": null\): run the'
    ):
        load(path)


def test_a_run_without_a_finished_case_shows_the_rest(write_run):
    path = write_run()
    for file in (path / "cases").glob("*.json"):
        edit(file, status="failed", error="no")
    run = load(path)
    assert (len(run.cases), len(run.samples), len(run.plans)) == (0, 0, 27)
    assert "No latency case has ended well" in " ".join(run.notes)


def test_a_run_that_was_cut_off_is_read(write_run):
    whole = load(write_run("whole"))
    path = write_run("killed", change=cut_off)
    run = load(path)
    assert not (path / "plans.csv").exists()
    assert [note for note in run.notes if "cut off" in note] == [
        'The run was cut off in the middle, or is still going on: environment.json says "finished": null, and '
        "23 cases had ended. The same command with --run and its directory goes on."
    ]
    assert run.notes[1:] == ()
    assert run.left_out.empty
    order = ["task", "criterion", "kept_fraction", "draw"]
    expected = whole.plans.sort_values(order, ascending=[True, True, False, True], ignore_index=True)
    pd.testing.assert_frame_equal(run.plans, expected)
    pd.testing.assert_frame_equal(run.samples, whole.samples)


def test_plans_of_a_cut_off_run_are_not_those_of_its_earlier_part(write_run):
    def change(run):
        cut_off(run)
        run.table("plans.csv", PLAN_COLUMNS, [])

    assert len(load(write_run(change=change)).plans) == 27


def test_plans_are_taken_from_their_files_where_the_table_is_lost(write_run):
    path = write_run(change=plan_files)
    cut(path / "plans.csv", 0.61)  # not at the end of a line
    run = load(path)
    assert len(run.plans) == 27
    assert run.notes == ("plans.csv has no plans that can be read; they are taken from plans/.",)
    assert run.left_out["what"].tolist() == ["plans.csv"]
