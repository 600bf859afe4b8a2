"""What pruning costs and what it saves: scores, accuracy and latency of every plan of every task.

Fills `scores.csv` (scores), `plans/` (accuracy, once for each plan), `attention.npz` (attention weights of examples)
and `cases/` of kind "pruning" (latency beside the dense model, for each plan, batch size and device). Accuracy comes
first: it says whether a run is worth its timings.
"""

from collections.abc import Mapping

import pytest

from bench.models.attention_maps import attention_maps
from bench.models.experiment import Experiment
from bench.models.latency import Latencies
from bench.rundir.directory import RunDirectory
from bench.settings.options import RunSettings, settings_of
from bench.settings.task_cases import LatencyCase, ModelVariant, latency_cases, model_variants, repaired_variants

Experiments = Mapping[str, Experiment]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = settings_of(metafunc.config)
    tasks = [task.name for task in settings.tasks]
    scored = [name for name in settings.criteria if name not in ("random", "even")]
    if metafunc.function is test_scores:
        pairs = [(task, criterion) for task in tasks for criterion in scored]
        metafunc.parametrize(("task", "criterion"), pairs, ids=["-".join(pair) for pair in pairs])
    elif metafunc.function is test_accuracy:
        metafunc.parametrize("variant", list(model_variants(settings)), ids=lambda variant: variant.id)
    elif metafunc.function is test_repaired_accuracy:
        metafunc.parametrize("variant", list(repaired_variants(settings)), ids=lambda variant: variant.id)
    elif metafunc.function is test_attention_maps:
        metafunc.parametrize("task", tasks)
    elif metafunc.function is test_latency:
        metafunc.parametrize("case", list(latency_cases(settings)), ids=lambda case: case.id)


@pytest.mark.fills("scores.csv", task="task", criterion="criterion")
def test_scores(task: str, criterion: str, experiments: Experiments, run: RunDirectory) -> None:
    """Record the score that a criterion gives each head of a task's model, and the seconds that scoring took."""
    scores, seconds = experiments[task].scores(criterion)
    rows = scores.to_frame()[["layer", "head", "score"]].itertuples(index=False)
    run.add_scores([(task, criterion, layer, head, score, seconds) for layer, head, score in rows])


def test_accuracy(variant: ModelVariant, experiments: Experiments, run: RunDirectory) -> None:
    """Record a plan's metric on held-out examples, its paired difference to dense, and the value of each example."""
    experiment = experiments[variant.task]
    with run.plan(**variant.record(), draw=variant.draw) as record:
        plan = experiment.plan(variant.criterion, variant.keep, variant.draw)
        record |= experiment.accuracy(plan)


def test_repaired_accuracy(variant: ModelVariant, experiments: Experiments, run: RunDirectory) -> None:
    """Record the same of a repaired model, with the CPU seconds and the peak memory of the repair."""
    with run.plan(**variant.record(), draw=variant.draw) as record:
        record |= experiments[variant.task].repaired_accuracy(variant.criterion, variant.keep, variant.repair)


@pytest.mark.fills("attention.npz", task="task")
def test_attention_maps(task: str, experiments: Experiments, settings: RunSettings, run: RunDirectory) -> None:
    """Record attention weights of held-out examples before and after pruning by the plan nearest to half of the heads.

    Where the task offers no such examples, only the plan's name is recorded.
    """
    criterion = "leave_one_out" if "leave_one_out" in settings.criteria else settings.criteria[0]
    keep = min(settings.keep, key=lambda fraction: abs(fraction - 0.5))
    variant = ModelVariant(task, criterion, keep)
    run.add_attention(attention_maps(experiments[task], experiments[task].plan(criterion, keep), variant.plan))


def test_latency(
    case: LatencyCase, experiments: Experiments, latencies: Latencies, run: RunDirectory, request: pytest.FixtureRequest
) -> None:
    """Time the pruned model's forward pass in turns with the dense model's, and record the samples.

    If a plan with as many heads in each layer has been timed before under the same conditions, the record names that
    case (`timed_by`), and has no samples. Repair keeps the shapes of a plan, so that a repaired plan is timed with its
    raw one; what `mha.shrink` makes is of a plan of its own.
    """
    variant, experiment = case.variant, experiments[case.variant.task]
    with run.case(**case.record()) as record:
        plan = experiment.plan(variant.criterion, variant.keep)
        record |= experiment.describe(plan)
        facts = {key: value for key, value in record.items() if key not in ("samples", "error", "status")}
        timing = latencies.of(case.id, experiment, plan, case.place, request, facts)
        record |= {"timed_by": timing.case, "seq_len": timing.seq_len}
        if timing.case == case.id:
            measured = ("samples", "ended", "warm_up", "counts")
            record |= {name: getattr(timing, name) for name in measured}
