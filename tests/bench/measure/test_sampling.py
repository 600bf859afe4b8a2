"""Sampling inside pytest: pytest-benchmark is handed the very samples, and half a case never passes for a whole one."""

import json
import sys
from collections import Counter

import pytest

from bench.measure import sampling
from bench.measure.threads import pinned

LIMITS = '{"seconds": 0.05, "rounds": (4, 12)}'
CASES = f"""
import json
from pathlib import Path

import pytest
import torch

from bench.measure.sampling import sampled

HERE = Path(__file__).parent


def ready(name, calls=10**9):
    turns = iter(range(calls))

    def call():
        with (HERE / "calls").open("a") as log:
            print(name, file=log)
        if next(turns, None) is None:
            raise KeyboardInterrupt
    return lambda: call


def run(request, arms, **options):
    found = sampled(request, arms, target="new", device="cpu", limits={LIMITS}, **options)
    (HERE / f"{{request.node.name}}.json").write_text(json.dumps(found._asdict()))


def test_three(request):
    arms = {{"new": ready("new"), "old": ready("old"), "older": ready("older")}}
    run(request, arms, facts={{"case": "three", "batch": 2}})


def test_cold(request):
    run(request, {{"new": ready("new")}}, cache="cold")


def test_failing(request):
    run(request, {{"new": ready("new"), "old": lambda: lambda: 1 / 0}})


def test_threads(request):
    run(request, {{"new": lambda: lambda: torch.set_num_threads(torch.get_num_threads() + 1)}})


def test_asked_twice(request, benchmark):
    benchmark.pedantic(int)
    run(request, {{"new": ready("new")}})


def test_interrupted(request):
    run(request, {{"new": ready("new", 5), "old": ready("old")}})
"""


@pytest.fixture
def nested(tmp_path, capfd):
    """Runs these cases by pytest, in this process; gives the exit code, what it said, and pytest-benchmark's JSON."""
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")

    def run(*options):
        target = tmp_path / "benchmarks.json"
        line = [str(tmp_path), f"--rootdir={tmp_path}", "--assert=plain", "--import-mode=importlib", "--tb=short"]
        modules = set(sys.modules)
        try:
            code = pytest.main([*line, "-p", "no:cacheprovider", f"--benchmark-json={target}", *options])
        finally:
            for name in set(sys.modules) - modules:
                if "test_cases" in name:
                    del sys.modules[name]
        found = json.loads(target.read_text())["benchmarks"] if target.exists() and target.stat().st_size else []
        return code, capfd.readouterr().out, {entry["name"]: entry for entry in found}

    run.path = tmp_path
    return run


def samples_of(nested, name):
    return json.loads((nested.path / f"{name}.json").read_text())


def test_pytest_benchmark_has_our_samples_exactly(nested):
    code, output, benchmarks = nested("-k", "three or cold")
    assert code == 0, output
    assert set(benchmarks) == {"test_three", "test_cold"}
    for name, entry in benchmarks.items():
        samples = samples_of(nested, name)["samples"]
        assert entry["stats"]["data"] == [sample["seconds"] for sample in samples if sample["arm"] == "new"]
        assert entry["stats"]["rounds"] == len({sample["round"] for sample in samples})


def test_every_arm_has_a_sample_in_every_round_in_balanced_order(nested):
    nested("-k", "three")
    found = samples_of(nested, "test_three")
    arms = [sample["arm"] for sample in found["samples"]]
    turns = list(zip(*[iter(arms)] * 3, strict=True))
    assert [sample["round"] for sample in found["samples"]] == [index for index in range(len(turns)) for _ in range(3)]
    assert 4 <= len(turns) <= 12
    assert all(second == first[::-1] for first, second in zip(turns[::2], turns[1::2], strict=True))
    assert all(set(turn) == {"new", "old", "older"} for turn in turns)
    assert found["ended"] in ("steady", "time spent", "most rounds")
    calls = Counter((nested.path / "calls").read_text().split())
    assert calls == dict.fromkeys(("new", "old", "older"), found["warm_up"] + len(turns))  # and none for the hand-over


def test_facts_and_speedups_stand_beside_the_times(nested):
    _, _, benchmarks = nested("-k", "three")
    info, found = benchmarks["test_three"]["extra_info"], samples_of(nested, "test_three")
    assert [info[key] for key in ("case", "batch", "ended", "warm_up")] == [
        *("three", 2, found["ended"], found["warm_up"]),
    ]
    expected = {arm: sampling.ratio(found["samples"], arm, "new")._asdict() for arm in ("old", "older")}
    assert info["speedups"] == expected


def test_disabled_benchmarks_take_one_round(nested):
    code, output, benchmarks = nested("-k", "three", "--benchmark-disable")
    assert (code, benchmarks) == (0, {}), output
    assert sorted(sample["arm"] for sample in samples_of(nested, "test_three")["samples"]) == ["new", "old", "older"]


def test_a_profile_is_of_the_call_and_no_sample(nested):
    code, output, benchmarks = nested("-k", "three", "--benchmark-cprofile=tottime")
    assert code == 0, output
    found = samples_of(nested, "test_three")
    rounds = len(found["samples"]) // 3
    assert len(benchmarks["test_three"]["stats"]["data"]) == rounds
    assert Counter((nested.path / "calls").read_text().split())["new"] == found["warm_up"] + rounds + 1
    assert any("(call)" in row["function_name"] for row in benchmarks["test_three"]["cprofile"])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("failing", "ZeroDivisionError: division by zero"),
        ("threads", "threads where a case began on "),
        ("asked_twice", "sampled makes the benchmark fixture; leave it out of the test"),
    ],
)
def test_what_fails_is_an_error_and_no_benchmark(nested, case, message):
    code, output, benchmarks = nested("-k", f"{case} or three")
    assert (code, "1 failed" in output, "error" in output.splitlines()[-1]) == (1, True, False), output
    assert message in output
    assert f"test_{case}" not in benchmarks or case == "asked_twice"
    assert not (nested.path / f"test_{case}.json").exists()


def test_an_interrupted_case_is_no_result(nested):
    code, output, benchmarks = nested("-k", "interrupted or three")
    assert code == pytest.ExitCode.INTERRUPTED, output
    assert set(benchmarks) == {"test_three"}
    assert not (nested.path / "test_interrupted.json").exists()


def test_threads_are_as_before_afterwards():
    import torch

    before = torch.get_num_threads()
    with pinned(before + 2):
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match=rf"on 7 threads where a case began on {before},"), pinned(before):
        torch.set_num_threads(7)
    assert torch.get_num_threads() == before
