"""How much is done to read a run: as much more as there is more to read, and no more."""

import sys

import pytest

from reports.read.load import load
from tests.reports.synthetic import paired


def work(path) -> int:
    """How many functions of Python are called to read the run."""
    calls = 0

    def count(frame, event, argument):  # noqa: ARG001
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        load(path)
    finally:
        sys.setprofile(None)
    return calls


@pytest.fixture
def write_cases(write_run):
    def write(cases: int, rounds: int):
        def fill(run):
            run.task("digits", {"attention": 2})
            for number in range(cases):
                run.case("digits", "taylor", 0.5, 2, paired(0.01, 2.0, rounds=rounds), case=f"case-{number:04}")

        return write_run(f"{cases}-{rounds}", fill=fill)

    return write


def test_work_does_not_grow_with_samples(write_cases):
    few, many = write_cases(10, 2), write_cases(10, 500)
    load(few)  # what is done only once is done
    assert work(many) < 1.1 * work(few)


def test_work_grows_with_cases_no_faster_than_they_do(write_cases):
    load(write_cases(2, 2))  # what is done only once is done
    none, some, many = (work(write_cases(cases, 2)) for cases in (1, 50, 200))
    assert (many - none) / 199 < 1.1 * (some - none) / 49


def test_bad_samples_are_found_without_looking_at_each_file_again(write_run):
    def fill(bad):
        def fill(run):
            run.task("digits", {"attention": 2})
            for number in range(200):
                samples = paired(0.01, 2.0, rounds=5)
                samples[3]["seconds"] = float("nan") if number < bad else 1.0
                run.case("digits", "taylor", 0.5, 2, samples, case=f"case-{number:04}")

        return fill

    one, all_of_them = (write_run(f"{bad}", fill=fill(bad)) for bad in (1, 200))
    load(one)
    assert work(all_of_them) < 1.5 * work(one)
    run = load(all_of_them)
    assert run.left_out["what"].tolist() == ["200 files in cases/, the first cases/case-0000.json"]
    assert len(run.samples) == 200 * 2 * 4
