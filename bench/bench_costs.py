"""Whether measured costs predict what a pruned model takes: the cost table beside the clock, plan by plan.

Fills `predictions.csv`. The cost table is measured first, from layers by themselves and a few even plans. Then plans
that it has not seen are timed in turns with the dense model, in the same process. The error of each prediction is
recorded, and none fails the benchmark, since a busy machine is not the table's fault.
"""

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

import mha
from bench.measure.calls import forward
from bench.models.experiment import Experiment, first_groups
from bench.models.random_llamas import HALVES, LARGE, random_llama
from bench.rundir.directory import RunDirectory
from bench.settings.layer_cases import LayerCase
from bench.settings.options import RunSettings, settings_of
from mha.timing import Rounds

BARE = "attention"  # the layer by itself
HEADS, BATCH, LENGTH = 12, 1, 256
PROMPT = 1024  # tokens that a Llama reads
MOST_ROUNDS = 1000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = settings_of(metafunc.config)
    subjects = [*(task.name for task in settings.tasks), BARE, *LARGE.get(settings.preset, ())]
    pairs = [(subject, device) for subject in subjects for device in settings.devices]
    ids = ["-".join(pair).replace(":", "") for pair in pairs]
    metafunc.parametrize(("subject", "device"), pairs, ids=ids)


@pytest.mark.fills("predictions.csv", task="subject", device="device")
def test_predicted_latency(
    subject: str, device: str, experiments: Mapping[str, Experiment], settings: RunSettings, run: RunDirectory
) -> None:
    """Record, for each plan of `_plans`, what share of the dense latency it takes: as predicted, and as measured.

    The error that is recorded with them is predicted / measured - 1.
    """
    model, args, kwargs = _subject(subject, device, experiments, settings)
    costs = mha.measure_costs(model, args, kwargs, device=device, seconds=settings.cost_seconds)
    plans = dict(_plans(mha.find_attention(model)))
    rounds = Rounds(device)
    rounds.add("dense", lambda: forward(model, args, kwargs))
    for name, plan in plans.items():
        pruned = mha.prune(model, plan)
        rounds.add(name, lambda pruned=pruned: forward(pruned, args, kwargs))  # type: ignore[misc]
    watched = [(name, "dense") for name in plans]
    rounds.until(seconds=settings.cost_seconds / 2, fewest=4, most=MOST_ROUNDS, watched=watched)
    rows = []
    for name, plan in plans.items():
        predicted, measured = costs.latency(plan).share, rounds.ratio(name, "dense")
        shape = [len(heads) for heads in plan.keep.values()]
        error = predicted / measured.value - 1
        rows.append((subject, device, name, shape, predicted, *measured, error, costs.ended, rounds.count))
    run.add_predictions(rows)


def _subject(
    name: str, device: str, experiments: Mapping[str, Experiment], settings: RunSettings
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The model of this name on the device, and its positional and keyword inputs: a task's, our layer, or a Llama."""
    if name == BARE:
        return _bare(device)
    if name in experiments:
        return _of(experiments[name], settings, device)
    tokens = torch.arange(PROMPT, device=device)[None]
    return random_llama(name, device, HALVES[0]), (), {"input_ids": tokens, "use_cache": False}


def _of(
    experiment: Experiment, settings: RunSettings, device: str
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A task's dense model, and its positional and keyword inputs at the batch size whose latency is reported."""
    return experiment.dense(device), *experiment.inputs(settings.batch(experiment.task), device)


def _bare(device: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Our layer by itself, with 12 heads, and its positional and keyword inputs: one sequence of 256 tokens."""
    case = LayerCase(HEADS, BATCH, LENGTH, device)
    return case.layer(), (case.inputs()[0].x,) * 3, {}


def _plans(layers: mha.AttentionMap) -> Iterator[tuple[str, mha.HeadPlan]]:
    """Yield name and plan: even and uneven ones, some with layers that keep no head; all keep whole groups."""
    rng = random.Random(0)
    count = len(layers)
    shares = {
        "even-0.75": [0.75] * count,
        "even-0.5": [0.5] * count,
        "one-each": [0.0001] * count,
        "every-other": [float(index % 2) for index in range(count)],
        "rising": [(index + 1) / count for index in range(count)],
        "drawn": [rng.random() for _ in range(count)],
    }
    for name, kept in shares.items():
        pairs = zip(layers.values(), kept, strict=True)
        yield name, mha.HeadPlan({layer.name: first_groups(layer, share) for layer, share in pairs})
