"""What is shown of many: both ends, evenly between, and how many are left out."""

import pandas as pd
import pytest

from reports.analyse.limits import best_criteria, left_out, spread, spread_batches, spread_rows
from reports.read.run import Metric


def test_of_many_values_both_ends_stay():
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(["a", "b"], 4) == ["a", "b"]
    assert spread([], 4) == []


def test_of_many_rows_the_least_and_the_largest_stay_in_their_order():
    frame = pd.DataFrame({"x": [5, 1, 4, 2, 3]}, index=list("abcde"))
    assert spread_rows(frame, 3, ["x"])["x"].tolist() == [5, 1, 3]
    assert spread_rows(frame, 5, ["x"]).equals(frame)


def test_of_many_batch_sizes_each_keeps_so_many_rows():
    frame = pd.DataFrame({"batch": [1, 1, 1, 2, 3, 3, 3], "x": range(7)})
    shown = spread_batches(frame, 2, 2, ["x"])
    assert shown.to_numpy().tolist() == [[1, 0], [1, 2], [3, 4], [3, 6]]


def test_what_is_left_out_is_said_and_nothing_else():
    assert left_out(3, 3, "sizes") == ""
    assert left_out(40, 2000, "sizes") == " Shown are 40 of 2,000 sizes; the data has all."
    assert left_out(40, 2000, "sizes", "the slowest") == " Shown are 40 of 2,000 sizes, the slowest; the data has all."


@pytest.mark.parametrize(("higher", "best"), [(True, ["b", "c"]), (False, ["a", "c"])])
def test_of_many_criteria_the_best_on_average_stay_beside_all_references(higher, best):
    rows = [("dense", 1.0), ("a", 0.1), ("b", 0.9), ("b", 0.7), ("c", 0.5), ("random", 0.2), ("none", 0.0)]
    table = pd.DataFrame(rows, columns=["criterion", "value"])
    metric = Metric("accuracy", higher, 0.0, True)
    shown, rest = best_criteria(table, metric, 2)
    assert {*shown["criterion"]} == {"dense", "random", "none", *best}
    assert rest == " Shown are 2 of 3 criteria, those that are best on average; the data has all."
    assert best_criteria(table, metric, 3)[1] == ""
