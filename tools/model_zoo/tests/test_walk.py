"""The walk: time limits, errors, resuming, and what its table says of them."""

import json
import time

import pytest

pytest.importorskip("transformers", minversion="5.0", reason="the walk is over transformers' models")

from tools.model_zoo import walk
from tools.model_zoo.table import write


def test_time_runs_out_through_all_that_catches_exceptions():
    def prove(model_type):
        try:
            time.sleep(30)
        except Exception:
            return {"type": model_type, "status": "proven"}

    assert walk.within(1, prove, "slow") == {"type": "slow", "status": "crashed", "reason": "took longer than 1 s"}


def test_an_error_outside_the_checks_is_a_crashed_row():
    def prove(model_type):
        raise ValueError(f"{model_type} is odd")

    assert walk.within(9, prove, "bert") == {"type": "bert", "status": "crashed", "reason": "ValueError: bert is odd"}


def test_the_last_row_of_a_type_counts_and_one_that_is_cut_off_does_not(tmp_path):
    rows = [{"type": "a", "status": "crashed"}, {"type": "b", "status": "proven"}, {"type": "a", "status": "proven"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"type": "c", "sta')
    assert walk.read(path) == [{"type": "a", "status": "proven"}, {"type": "b", "status": "proven"}]
    assert walk.read(tmp_path / "none yet") == []


def test_what_crashed_is_walked_again(tmp_path, monkeypatch):
    rows, tried = tmp_path / "rows.jsonl", []
    old = [{"type": "bert", "status": "crashed"}, {"type": "gpt2", "status": "refused"}]
    rows.write_text("".join(json.dumps(row) + "\n" for row in old))

    def rows_of(_trial, names, jobs, _start):
        tried.extend([*names, jobs])
        return iter([{"type": name, "status": "refused", "reason": "now"} for name in names])

    monkeypatch.setattr(walk, "rows_of", rows_of)
    walk.main(["--rows", str(rows), "--only", "bert", "gpt2", "vit", "--jobs", "1", "-o", str(tmp_path)])
    assert tried == ["bert", "vit", 1]
    assert {row["type"]: row["status"] for row in walk.read(rows)} == dict.fromkeys(["bert", "gpt2", "vit"], "refused")


def test_the_tables_head_counts_what_crashed(tmp_path):
    statuses = ["proven", "failed", "crashed", "crashed", "refused", "no attention", "not built", "not run"]
    found = {"conventions": "x", "layers": 7, "unseen": 2}
    write([{"type": f"type{i}", "status": status, **found} for i, status in enumerate(statuses)], tmp_path)
    head = (tmp_path / "families.md").read_text()
    assert "| crashed: out of time or memory, or an error outside the checks | 2 |" in head
    assert "| mapped by transformers | 8 |" in head
    assert "| run with finite outputs | 4 |" in head
    assert "| type2 | crashed |" in head
    assert "Of the 7 layers of the 1 proven\ntypes for which that was counted, 2 do not show" in head
