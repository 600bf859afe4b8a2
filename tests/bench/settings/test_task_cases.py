"""Which models a run is made of, with what repair."""

from pathlib import Path

from bench.settings.options import RunSettings
from bench.settings.task_cases import LatencyCase, latency_cases, model_variants, repaired_variants
from tests.bench.tiny_task import TinyTask


def settings(**given):
    usual = {"criteria": ("random", "taylor"), "keep": (0.75, 0.5), "batch_sizes": (3,), "devices": ("cpu",)}
    return RunSettings(directory=Path("run"), tasks=(TinyTask(),), **usual | given)


def names(variants):
    return [variant.plan for variant in variants]


def test_repaired_plans_are_of_one_criterion_and_shrunk_ones_of_none():
    every = settings(repair=("none", "compensate", "shrink"), shrink_keep=(0.5,))
    repaired = ["tiny-taylor-keep0.75-compensate-0", "tiny-taylor-keep0.5-compensate-0", "tiny-shrink-keep0.5-0"]
    assert names(repaired_variants(every)) == repaired
    records = [variant.record() for variant in repaired_variants(every)]
    assert [(record["criterion"], record["repair"]) for record in records] == [
        *[("taylor", "compensate")] * 2, ("shrink", "shrink")
    ]  # fmt: skip
    raw = names(model_variants(every))
    assert raw[:2] == ["tiny-dense", "tiny-none"]
    assert raw[-2:] == ["tiny-taylor-keep0.75-0", "tiny-taylor-keep0.5-0"]
    assert [name for name in raw if "compensate" in name or "shrink" in name] == []


def test_every_model_is_timed_and_its_case_says_how_it_was_repaired():
    every = settings(repair=("none", "compensate", "shrink"), shrink_keep=(0.5,))
    cases = {case.id: case.record()["repair"] for case in latency_cases(every)}
    assert all(isinstance(case, LatencyCase) for case in latency_cases(every))
    assert cases["tiny-taylor-keep0.5-b3-cpu"] == cases["tiny-none-b3-cpu"] == "none"
    assert cases["tiny-taylor-keep0.5-compensate-b3-cpu"] == "compensate"
    assert cases["tiny-shrink-keep0.5-b3-cpu"] == "shrink"
    assert len(cases) == 1 + 2 * 2 + 2 + 1


def test_what_is_not_asked_for_is_left_out():
    assert names(repaired_variants(settings(repair=("none",), shrink_keep=(0.5,)))) == []
    only = settings(repair=("compensate",))
    assert names(model_variants(only)) == ["tiny-dense", "tiny-none"]
    assert len(list(repaired_variants(only))) == 2
    assert list(repaired_variants(settings(repair=("compensate",), criteria=("random", "even")))) == []
