"""Plans that a runtime can run: its terms are added, and solved as exactly as any."""

import itertools

import pytest
import torch

import mha
from mha.planning.runtimes import RUNTIMES, terms_of
from mha.values.errors import ScoresError

GROUPED = {"a": 2, "b": 2, "c": 2}


@pytest.fixture
def scores():
    """Three layers of six heads in two groups, the first of which matters least."""
    generator = torch.Generator().manual_seed(3)
    rows = {name: torch.rand(6, generator=generator) * weight for name, weight in (("a", 0.1), ("b", 1), ("c", 2))}
    return mha.HeadScores(rows, GROUPED)


def best(scores, heads, allowed):
    """The largest total score of a plan of so many heads, by trying all groups and heads of all layers."""
    ways = []
    for row in scores.values():
        kept = {}
        for groups in ((), (0,), (1,), (0, 1)):
            for number in (1, 2, 3) if groups else (0,):
                value = sum(float(row[3 * group : 3 * group + 3].topk(number).values.sum()) for group in groups)
                shape = (len(groups) * number, len(groups))
                kept[shape] = max(value, kept.get(shape, -1.0))
        ways.append(list(kept.items()))
    plans = [tuple(zip(*plan, strict=True)) for plan in itertools.product(*ways)]
    found = [sum(values) for shapes, values in plans if sum(h for h, _ in shapes) == heads and allowed(shapes)]
    return max(found)


ALLOWED = {
    "transformers": lambda shapes: len(set(shapes)) == 1 and shapes[0][0],
    "vllm": lambda shapes: all(heads in (0, 3 * groups) for heads, groups in shapes),
    "onnx": lambda shapes: True,  # noqa: ARG005
}


@pytest.mark.parametrize("runtime", ALLOWED)
def test_the_best_plan_that_the_runtime_takes(scores, runtime):
    plan = mha.choose(scores, heads=9, runs_on=runtime)
    value = sum(float(scores[name][list(heads)].sum()) for name, heads in plan.keep.items())
    assert value == pytest.approx(best(scores, 9, ALLOWED[runtime]))


def test_of_two_terms_the_stricter_holds():
    assert terms_of("transformers", {"min_heads": 3, "uniform": False}, "ab") == {"min_heads": 3, "uniform": True}
    assert terms_of("transformers", {"min_heads": {"b": 2}}, "ab")["min_heads"] == {"a": 1, "b": 2}
    assert terms_of("tensor cores", {"multiple_of": 6}, "ab") == {"multiple_of": 24}
    assert terms_of(None, {"multiple_of": 6}, "ab") == {"multiple_of": 6}


def test_an_unknown_runtime_is_told(scores):
    with pytest.raises(ScoresError, match=r"unknown runtime 'onx'; did you mean 'onnx'\? There are: torch, onnx"):
        mha.choose(scores, keep=0.5, runs_on="onx")
    assert all(runtime.why for runtime in RUNTIMES.values())
