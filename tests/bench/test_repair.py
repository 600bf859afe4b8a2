"""What is said of repair: shares of gaps, and a verdict that can be bad."""

import csv
import math
from io import StringIO

import numpy as np
import pytest

from bench import repair, tasks
from bench.measure.bootstrap import Bootstrap
from tests.bench.tiny_task import TinyTask


def estimates(*columns):
    bootstrap = Bootstrap(len(columns[0]), lambda values: float(values.mean()))
    return [bootstrap(np.array(column, dtype=float)) for column in columns]


def test_the_closed_share_is_what_was_gained_over_what_was_lost():
    dense, pruned, repaired = estimates([1] * 100, [1, 0] * 50, [1, 1, 1, 0] * 25)
    assert repair.closed(repaired - pruned, dense - pruned).value == pytest.approx(0.5)


def test_where_nothing_was_lost_there_is_no_share():
    dense, pruned = estimates([1, 0] * 50, [1, 0] * 49 + [0, 0])
    assert math.isnan(repair.closed(dense - pruned, dense - pruned).value)


def row(**values):
    blank = {
        "task": "digits", "criterion": "magnitude", "keep": 0.5, "method": "least_squares", "gap": 0.2, "closed": 0.9,
        "gained": 0.1, "gained_low": 0.05, "gained_high": 0.15, "evaluations": 3.0,
    }  # fmt: skip
    return blank | values


def test_the_verdict_counts_and_names_what_failed():
    rows = [
        row(),
        row(closed=0.4, keep=0.3),
        row(closed=math.nan, gained=-0.1, gained_low=-0.2, gained_high=-0.01, criterion="taylor"),
        row(evaluations=11.5, keep=0.11),
        row(method="bias", closed=0.0, evaluations=99.0),
    ]
    assert list(repair.verdict(rows)) == [
        "least squares closes at least half of 2 of 3 gaps whose interval excludes 0",
        "  not of digits, magnitude, 0.3 kept: 0.40",
        "significantly worse than no repair: 1 of 4",
        "  digits, taylor, 0.5 kept: -0.1000",
        "took more than 10 evaluations: 1 of 4",
        "  digits, magnitude, 0.11 kept: 11.5",
    ]


def test_it_runs_and_writes_both_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tasks, "load", lambda name: {"tiny": TinyTask()}[name])
    monkeypatch.setattr(tasks, "names", lambda: ("tiny",))
    repair.main(["-o", str(tmp_path), "--keep", "0.5", "--criteria", "magnitude"])
    rows = {
        name: list(csv.DictReader(StringIO((tmp_path / f"{name}.csv").read_text()))) for name in ("repair", "shrink")
    }
    assert [row["method"] for row in rows["repair"]] == ["bias", "scale", "least_squares"]
    for row in rows["repair"]:
        assert float(row["gained"]) == pytest.approx(float(row["repaired"]) - float(row["pruned"]))
        assert float(row["gap"]) == pytest.approx(float(row["dense"]) - float(row["pruned"]))
        assert float(row["evaluations"]) > 0
    assert rows["shrink"][0]["shape"].count(",") == 1
    assert "significantly worse than no repair" in capsys.readouterr().out
