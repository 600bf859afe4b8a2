"""How what was left out is listed."""

import pytest

from reports.base.errors import ReportError
from reports.read.problems import Problems


def test_an_error_about_a_file_is_a_row_without_its_path(tmp_path):
    problems = Problems(tmp_path)
    file = tmp_path / "cases/a.json"
    done = []
    with problems.noted(file):
        done.append("before")
        raise ReportError(f"{file}: expected this, got that; copy it again")
    with problems.noted(tmp_path / "plans.csv"):
        done.append("well")
    assert done == ["before", "well"]
    assert problems.frame().to_dict("records") == [
        {"what": "cases/a.json", "reason": "expected this, got that; copy it again"}
    ]


def test_other_errors_are_not_kept_quiet(tmp_path):
    with pytest.raises(ZeroDivisionError), Problems(tmp_path).noted(tmp_path / "a"):
        raise ZeroDivisionError


def test_few_faults_of_a_kind_stand_one_by_one_and_many_together(tmp_path):
    problems = Problems(tmp_path)
    for number in range(3):
        problems.add(tmp_path / f"cases/{number}.json", f"missing 'a{number}', found {number} (at {number})")
    for number in range(1234):
        problems.add(tmp_path / f"plans/{number}.json", f"expected a number, got x{number}; copy")
    for number in range(5):
        problems.add(tmp_path / "attention.npz", f"'digits/{number}': expected weights")
    problems.add(tmp_path / "plans/0.json", "something else")
    assert problems.frame().values.tolist() == [
        ["cases/0.json", "missing 'a0', found 0 (at 0)"],
        ["cases/1.json", "missing 'a1', found 1 (at 1)"],
        ["cases/2.json", "missing 'a2', found 2 (at 2)"],
        ["1,234 files in plans/, the first plans/0.json", "expected a number, got x0; copy"],
        ["attention.npz", "5 times, the first: 'digits/0': expected weights"],
        ["plans/0.json", "something else"],
    ]


def test_there_are_never_more_than_fifty_rows(tmp_path):
    problems = Problems(tmp_path)
    for number in range(60):
        for copy in range(4):
            problems.add(tmp_path / f"cases/{number:02}-{copy}.json", "x" * (number + 1))
    frame = problems.frame()
    assert len(frame) == 50
    assert frame["what"].iloc[48] == "4 files in cases/, the first cases/48-0.json"
    assert frame["what"].iloc[49] == "44 more"
    first = "the first of them, 4 files in cases/, the first cases/49-0.json: "
    assert frame["reason"].iloc[49] == first + "x" * 50
