"""What each task promises about itself, measured: that its heads matter, and that they take time.

Fills `promises.csv`. A task states a promise as an attribute; what it does not state is not measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from bench.measure.bootstrap import Interval, average, ratio
from bench.models.experiment import DENSE, NONE, Experiment
from bench.models.latency import Latencies, Place
from bench.rundir.directory import RunDirectory
from bench.settings.options import RunSettings, settings_of
from bench.settings.task_cases import LatencyCase, ModelVariant


@dataclass(frozen=True)
class Evidence:
    """Measures the values that promises are about, from a task's experiment and what is needed to time its models."""

    experiment: Experiment
    settings: RunSettings
    latencies: Latencies
    request: pytest.FixtureRequest

    def metric(self, criterion: str) -> Interval:
        """The metric of the dense model (`criterion` is "dense"), or of the model without heads ("none")."""
        return self.experiment.metric(self.experiment.plan(criterion, 1.0)).interval()

    def loss_of_random_half(self) -> Interval:
        """How much worse the metric is without a random half of the heads, on average over draws (a difference)."""
        plans = [self.experiment.plan("random", 0.5, draw) for draw in range(self.settings.random_draws)]
        dense, half = (
            self.experiment.metric(self.experiment.plan(DENSE, 1.0)),
            average(map(self.experiment.metric, plans)),
        )
        return (dense - half if self.experiment.task.higher_is_better else half - dense).interval()

    def attention_share(self) -> Interval:
        """The share of the dense latency that is saved without any heads, at the task's batch size, on one device."""
        task, device = self.experiment.task, self.settings.devices[0]
        case = LatencyCase(ModelVariant(task.name, NONE, 0.0), Place(task.batch_size, device))
        plan = self.experiment.plan(NONE, 0.0)
        timing = self.latencies.of(case.id, self.experiment, plan, case.place, self.request)
        value, low, high = ratio(timing.samples, "pruned", "dense")
        return Interval(1 - value, 1 - high, 1 - low)


@dataclass(frozen=True)
class Promise:
    """One attribute by which a task can state a bound.

    Attributes:
        measure: measures the value that the bound is about.
        kept: called with that value and the bound; whether the promise is kept.
    """

    measure: Callable[[Evidence], Interval]
    kept: Callable[[Interval, float], bool]


PROMISES = {
    "dense_at_least": Promise(lambda seen: seen.metric(DENSE), lambda got, bound: got.value >= bound),
    "without_heads_at_most": Promise(lambda seen: seen.metric(NONE), lambda got, bound: got.value <= bound),
    "dense_at_most": Promise(lambda seen: seen.metric(DENSE), lambda got, bound: got.value <= bound),
    "without_heads_at_least": Promise(lambda seen: seen.metric(NONE), lambda got, bound: got.value >= bound),
    "random_half_loses": Promise(Evidence.loss_of_random_half, lambda got, bound: got.value >= bound and got.low > 0),
    "attention_share": Promise(Evidence.attention_share, lambda got, bound: got.value >= bound),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    stated = [
        pytest.param(task.name, promise, id=f"{task.name}-{promise}")
        for task in settings_of(metafunc.config).tasks
        for promise in PROMISES
        if getattr(task, promise, None) is not None
    ]
    metafunc.parametrize(("task", "promise"), stated)


@pytest.mark.fills("promises.csv", "kept", task="task", promise="promise")
def test_promise(
    task: str,
    promise: str,
    experiments: Mapping[str, Experiment],
    settings: RunSettings,
    latencies: Latencies,
    run: RunDirectory,
    request: pytest.FixtureRequest,
) -> None:
    """Measure one promise of a task, record the value beside the stated bound, and fail if the promise is not kept."""
    experiment = experiments[task]
    bound = getattr(experiment.task, promise)
    measured = PROMISES[promise].measure(Evidence(experiment, settings, latencies, request))
    kept = PROMISES[promise].kept(measured, bound)
    run.add_promise((task, promise, *measured, bound, kept))
    assert kept, f"task {task!r} states {promise} = {bound}, measured {measured}"
