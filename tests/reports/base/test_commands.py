"""The commands on a page are those that made the run."""

import pytest

from reports.base.commands import again


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        (["pytest bench"], ["nox -s bench"]),
        (["pytest bench --run runs/a --process 0", "pytest bench --run runs/a --process 1"],
         ["nox -s bench -- --processes 2 --run runs/a"]),
        (["pytest bench --quick", "pytest bench/profiles.py --benchmark-disable --run runs/a --keep 1,0.5"],
         ["nox -s bench -- --quick", "nox -s profile -- --run runs/a --keep 1,0.5"]),
        (["pytest benches"], ["pytest benches"]),
    ],
)  # fmt: skip
def test_commands_are_as_one_types_them(commands, expected):
    environment = {"commands": commands, "revision": "0f3c", "threads": 2, "cores": 2}
    assert again(environment) == ("git checkout 0f3c", *expected)


def test_an_older_run_has_one_command_and_may_have_no_revision():
    environment = {"command": "pytest bench --full", "revision": None}
    assert again(environment) == ("nox -s bench -- --full",)
    assert again({}) == ()


def test_fewer_threads_than_cores_are_said():
    environment = {"command": "python -m bench.importance --jobs 2", "threads": 1, "cores": 2}
    assert again(environment) == ("OMP_NUM_THREADS=1 nox -s importance -- --jobs 2",)
