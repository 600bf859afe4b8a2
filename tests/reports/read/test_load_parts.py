"""Tables, attention and descriptions that are wrong lose what is wrong in them, and the run says so."""

import re

import numpy as np
import pandas as pd
import pytest

from reports.read.load import load
from tests.reports.damaging import TABLES, change_arrays, edit, left_out, plan_files, rewrite
from tests.reports.synthetic import paired

LAYERS = ["blocks.0.attention", "blocks.1.attention"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("plans.csv", lambda frame: frame.drop(columns=["low", "high"]), r"missing columns 'low', 'high', found 'pl"),
        ("scores.csv", lambda frame: frame.drop(columns="layer"), r"missing columns 'layer'"),
        ("plans.csv", lambda frame: frame.assign(value="good"), r"expected numbers in column 'value' \(.*good"),
        ("plans.csv", lambda frame: frame.assign(task=""), r"column 'task' has empty cells"),
        ("ceilings.csv", lambda frame: frame.drop(columns="ceiling"), r"missing columns 'ceiling'"),
        ("memory.csv", lambda frame: frame.drop(columns="bytes"), r"missing columns 'bytes', found"),
        ("plans.csv", lambda frame: frame.assign(value=np.nan), r"27 of 27 rows, .* 2: .* in column 'value', got nan"),
        ("operators.csv", lambda frame: frame.assign(task="letters"), r"6 of 6 rows, .*\(digits\), got letters"),
        ("predictions.csv", lambda frame: frame.assign(task="letters"), r"\(attention, digits\), got letters"),
    ],
)  # fmt: skip
def test_a_table_of_which_nothing_can_be_used(write_run, name, change, message):
    path = write_run()
    rewrite(path / name, change)
    run = load(path)
    [[what, reason]] = left_out(run)
    assert what == name
    assert re.match(f".*{message}", reason)
    found = {table: len(getattr(run, table.removesuffix(".csv"))) for table in TABLES}
    assert [table for table, rows in found.items() if not rows] == [name]


def some(column, value, rows=(1, 4)):
    return lambda frame: frame.assign(**{column: frame[column].where(~frame.index.isin(rows), value)})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("plans.csv", some("value", np.nan), "expected a finite number in column 'value', got nan"),
        ("plans.csv", some("difference", np.inf), "expected a finite number in column 'difference', got inf"),
        ("plans.csv", some("task", "letters"), "expected tasks that environment.json describes (digits), got letters"),
        ("plans.csv", some("plan", "same"), "expected one row for each plan, got several for same"),
        ("scores.csv", some("score", -np.inf), "expected a finite number in column 'score', got -inf"),
        (
            "scores.csv", some("head", 1.0),
            "expected one row for each task and criterion and layer and head, got several for "
            "digits, taylor, blocks.0.attention, 1.0",
        ),
        ("ceilings.csv", some("value", np.nan), "expected a finite number in column 'value', got nan"),
    ],
)  # fmt: skip
def test_rows_that_are_not_what_they_should_be(write_run, name, change, message):
    path = write_run()
    before = getattr(load(path), name.removesuffix(".csv"))
    rewrite(path / name, change)
    run = load(path)
    expected = f"2 of {len(before)} rows, the first in line 3: {message}; copy the run directory again, or run the "
    assert [[what, reason[: len(expected)]] for what, reason in left_out(run)] == [[name, expected]]
    pd.testing.assert_frame_equal(
        getattr(run, name.removesuffix(".csv")), before.drop(index=[1, 4]).reset_index(drop=True)
    )


def test_lines_with_more_cells_than_the_header_are_no_table(write_run):
    path = write_run()
    lines = (path / "memory.csv").read_text().splitlines()
    (path / "memory.csv").write_text("\n".join([lines[0], *(f"x,{line}" for line in lines[1:])]) + "\n")
    [[what, reason]] = left_out(load(path))
    assert (what, "more cells than the header" in reason) == ("memory.csv", True)


def test_examples_without_values(write_run):
    path = write_run()
    pd.DataFrame({"task": ["digits"]}).to_parquet(path / "examples.parquet")
    [[what, reason]] = left_out(load(path))
    assert what == "examples.parquet"
    assert reason.startswith("missing columns 'plan', 'example', 'value_0', found 'task'")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": np.array([1, 4, 8])}, r"heads below h .* got \(8, 5, 7\), \(3, 5, 7\), \[1, 4, 8\]"),
        ({"heads": np.array(["a", "b", "c"])}, r"heads below h .* \['a', 'b', 'c'\]"),
        ({"heads": np.array(3)}, r"heads below h .* 3, "),
        ({"queries": np.array(["a"])}, r"labels \(q,\) and \(k,\); got .* \(1,\) and \(7,\)"),
        ({"dense": np.zeros((8, 5))}, r"expected dense \(h, q, k\), .* got \(8, 5\)"),
        ({"pruned": None}, r"missing columns 'digits/blocks\.0\.attention/pruned'"),
        ({"pruned": np.full((3, 5, 7), np.nan)}, r"'digits/blocks\.0\.attention': expected finite weights in 'pruned'"),
        ({"dense": np.full((8, 5, 7), "x")}, r"'digits/blocks\.0\.attention': expected finite weights in 'dense'"),
    ],
)
def test_attention_of_one_layer_that_does_not_fit(write_run, changes, message):
    path = write_run()
    change_arrays(path, **changes)
    run = load(path)
    [[what, reason]] = left_out(run)
    assert what == "attention.npz"
    assert re.search(message, reason)
    assert [example.layer for example in run.attention] == LAYERS[1:]


def test_pickled_attention_is_refused_and_the_rest_is_read(write_run):
    path = write_run()
    change_arrays(path, dense=np.array([None]))
    run = load(path)
    rows = left_out(run)
    assert [what for what, _ in rows] == ["attention.npz"] * 2
    assert re.match(r"expected a plain array at 'digits/blocks\.0\.attention/dense', but .*pickle", rows[0][1])
    assert rows[1][1].startswith("missing columns 'digits/blocks.0.attention/dense'")
    assert [example.layer for example in run.attention] == LAYERS[1:]


def test_attention_of_a_task_that_is_not_described(write_run):
    path = write_run(change=lambda run: run.attention.update({"letters/attention/dense": np.zeros((1, 1, 1))}))
    run = load(path)
    [[what, reason]] = left_out(run)
    assert what == "attention.npz"
    assert "describes (digits), got 'letters/attention/dense'" in reason
    assert len(run.attention) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"at least 1 for 'batch_size' in task 'letters', got 0"),
        ({"chance": "half"}, r"expected int or float for 'chance' in task 'letters', got 'half'"),
        (None, r"expected an object for task 'letters', got None"),
    ],
)
def test_a_task_that_is_not_described_well_is_left_out_with_all_of_it(write_run, full_run, changes, message):
    def change(run):
        run.task("letters", {"attention": 2}, **changes or {})
        run.plan("letters", "dense", 1.0, 0.9)
        run.case("letters", "taylor", 0.5, 2, paired(0.01, 2.0))
        if changes is None:
            run.environment["tasks"]["letters"] = None

    run = load(write_run(change=change))
    rows = left_out(run)
    assert [what for what, _ in rows] == ["environment.json", "cases/letters-taylor-keep0.5-b2-cpu.json", "plans.csv"]
    assert re.search(message, rows[0][1])
    assert run.tasks == ("digits",)
    pd.testing.assert_frame_equal(run.plans, load(full_run).plans)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packages": [1]}, "expected dict or null for 'packages', got [1]"),
        ({"memory_bytes": float("nan")}, "expected a finite number of at least 0 for 'memory_bytes', got nan"),
        ({"machine": {"noisy": 3}}, "expected list or null for 'noisy' in machine, got 3"),
        ({"dirty": "yes"}, "expected bool or null for 'dirty', got 'yes'"),
    ],
)
def test_a_fact_about_the_machine_that_is_none_is_left_out(write_run, changes, message):
    run = load(write_run(change=lambda run: run.environment.update(changes)))
    [[what, reason]] = left_out(run)
    assert (what, reason.split(";")[0]) == ("environment.json", message)
    assert run.noisy == ()
    assert run.environment.get(next(iter(changes))) in (None, {})


def test_layers_without_numbers_are_left_out(write_run):
    run = load(write_run(change=lambda run: run.environment["tasks"]["digits"].update(layers={"a": "b"})))
    assert [what for what, _ in left_out(run)] == ["environment.json"]
    assert "layers" not in run.environment["tasks"]["digits"]


def test_plans_of_a_cut_off_run_that_are_not_what_they_should_be(write_run):
    def change(run):
        plan_files(run)
        run.environment["finished"] = None

    path = write_run(change=change)
    for name, changes in {
        "dense": {"value": float("nan")}, "none": {"heads_kept": None}, "taylor-keep0.5-0": {"task": "letters"},
        "taylor-keep0.25-0": {"plan": "digits-random-keep0.5-0"}, "random-keep0.5-1": {"difference": 10**400},
    }.items():  # fmt: skip
        edit(path / f"plans/digits-{name}.json", **changes)
    run = load(path)
    assert {what: reason.split(";")[0] for what, reason in left_out(run)} == {
        "plans/digits-dense.json": "expected a finite number for 'value', got nan",
        "plans/digits-none.json": "expected int or float for 'heads_kept', got None",
        "plans/digits-random-keep0.5-1.json": "expected a finite number for 'difference', got 1" + 59 * "0",
        "plans/digits-taylor-keep0.25-0.json": "the plan 'digits-random-keep0.5-0' is there more than once",
        "plans/digits-taylor-keep0.5-0.json": "expected tasks that environment.json describes (digits), got letters",
    }
    assert len(run.plans) == 22
