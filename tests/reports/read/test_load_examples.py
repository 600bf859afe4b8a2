"""Examples and texts of a run: what can be told of them, and what is left out."""

import numpy as np
import pandas as pd
import pytest

from reports.read import examples
from reports.read.load import load
from tests.reports.damaging import left_out, rewrite

ROWS = pd.DataFrame({"task": "digits", "plan": "digits-dense", "example": range(3), "value_0": [0.0, 1.0, 0.5]})


def reading(write_run, frame: pd.DataFrame):
    path = write_run()
    frame.to_parquet(path / "examples.parquet", index=False)
    return load(path)


def test_a_single_value_is_taken_and_not_said_to_be_a_metric(write_run):
    found = reading(write_run, ROWS).examples
    assert found["value"].tolist() == [0.0, 1.0, 0.5]
    assert not found["told"].any()


def test_of_several_values_only_the_metric_alone_is_taken(write_run):
    frame = ROWS.assign(value_1=[np.nan, 3.0, 4.0], alone=[np.nan, np.nan, 7.0])
    found = reading(write_run, frame).examples
    assert found[["example", "value", "told"]].values.tolist() == [[0, 0.0, False], [2, 7.0, True]]


def test_values_that_are_not_finite_are_none(write_run):
    assert reading(write_run, ROWS.assign(value_0=[np.inf, np.nan, 1.0])).examples["example"].tolist() == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": 7}, "expected text in column 'plan', got int64"),
        ({"value_0": "much"}, "expected numbers in column 'value_0', got"),
        ({"example": [[1], [2], [3]]}, "expected numbers in column 'example', got"),
    ],
)
def test_columns_of_another_type(write_run, change, message):
    run = reading(write_run, ROWS.assign(**change))
    [[what, reason]] = left_out(run)
    assert (what, reason[: len(message)]) == ("examples.parquet", message)
    assert run.examples.empty


def test_more_examples_than_any_run_has(write_run, monkeypatch):
    monkeypatch.setattr(examples, "MOST_EXAMPLES", 2)
    [[what, reason]] = left_out(reading(write_run, ROWS))
    assert (what, reason) == (
        "examples.parquet", "expected at most 2 rows, got 3; no benchmark writes so much: look where it comes from",
    )  # fmt: skip


@pytest.mark.parametrize("cell", ["yes", "7", '{"a": 1}', '["a", 1]', '["\\ud800"]', "[" * 10_000])
def test_texts_that_are_no_lists_of_texts(write_run, cell):
    path = write_run()
    rewrite(path / "texts.csv", lambda frame: frame.assign(pieces=[cell, *frame["pieces"][1:]]))
    run = load(path)
    [[what, reason]] = left_out(run)
    assert what == "texts.csv"
    assert reason.startswith("1 of 6 rows, the first in line 2: expected a JSON list of texts in column 'pieces', got ")
    assert len(reason) < 300
    assert len(run.texts) == 5
