"""What pruning costs and what it saves: scores, accuracy and latency of every plan of every task.

Fills `scores.csv` (scores), `plans/` (accuracy, once for each plan), `attention.npz` (attention weights of examples)
and `cases/` of kind "pruning" (latency beside the dense model, for each plan, batch size and device). Accuracy comes
first: it says whether a run is worth its timings. What changes beside the mean follows, of tasks that offer `slices`,
`confidences` or `prompts`: `slices.csv`, `calibration.csv` with `reliability.csv`, and `texts.csv`.
"""

from collections.abc import Callable, Iterator, Mapping

import pytest

from bench.models.attention_maps import attention_maps
from bench.models.changes import calibration_rows, offers, slice_rows, text_rows
from bench.models.experiment import DENSE, Experiment
from bench.models.latency import Latencies
from bench.models.repairs import SHRINK
from bench.rundir.directory import RunDirectory
from bench.settings.options import RunSettings, settings_of
from bench.settings.task_cases import (
    LatencyCase,
    ModelVariant,
    latency_cases,
    model_variants,
    repaired_variants,
    shown_criterion,
)

Experiments = Mapping[str, Experiment]
Asked = tuple[str, float, str]  # criterion, kept fraction, repair
PROMPTS, TOKENS = 10, 40
SHARES = (0.75, 0.5, 0.25)  # of the heads, of plans whose text is kept: the nearest of those that are measured


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
    elif metafunc.function.__name__ in OFFERED:
        method, variants = OFFERED[metafunc.function.__name__]
        offering = {task.name for task in settings.tasks if offers(task, method)}
        shown = [(variant.task, variant.plan) for variant in variants(settings) if variant.task in offering]
        metafunc.parametrize(("task", "plan"), shown, ids=[plan for _, plan in shown])
    elif metafunc.function is test_latency:
        metafunc.parametrize("case", list(latency_cases(settings)), ids=lambda case: case.id)


def judged(settings: RunSettings) -> Iterator[ModelVariant]:
    """Yield the models that are looked at closely: all whose accuracy is measured, of several draws the first."""
    return (variant for variant in (*model_variants(settings), *repaired_variants(settings)) if variant.draw == 0)


def pruned(settings: RunSettings) -> Iterator[ModelVariant]:
    """Yield those of them that are pruned."""
    return (variant for variant in judged(settings) if variant.criterion != DENSE)


def written(settings: RunSettings) -> Iterator[ModelVariant]:
    """Yield the models whose text is kept: the dense one; of one criterion, and shrunk ones, at a few shares."""
    nearest = {min((abs(keep - share), keep) for keep in settings.keep)[1] for share in SHARES}
    shown = {(DENSE, 1.0), *((name, keep) for name in (shown_criterion(settings), SHRINK) for keep in nearest)}
    return (variant for variant in judged(settings) if (variant.criterion, variant.keep) in shown)


Variants = Callable[[RunSettings], Iterator[ModelVariant]]
OFFERED: Mapping[str, tuple[str, Variants]] = {  # what a task must offer, and the models that are asked
    "test_slices": ("slices", pruned), "test_calibration": ("confidences", judged), "test_texts": ("prompts", written),
}  # fmt: skip


@pytest.fixture
def asked(plan: str, settings: RunSettings) -> Asked:
    """What an experiment is to be asked for the model of the plan of this name.

    The test asks, not the fixture: there a task that ends the process (`sys.exit`) would leave pytest's fixture half
    set up, which fails the tests after it, and memory that runs out would be an error.
    """
    variant = next(variant for variant in judged(settings) if variant.plan == plan)
    return variant.criterion, variant.keep, variant.repair


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


@pytest.mark.fills("slices.csv", task="task", plan="plan")
def test_slices(task: str, plan: str, asked: Asked, experiments: Experiments, run: RunDirectory) -> None:
    """Record the metric of a plan on each part of the examples that the task names, beside the dense model's."""
    run.add_slices(slice_rows(experiments[task], experiments[task].small_values(*asked), plan))


@pytest.mark.fills("calibration.csv", task="task", plan="plan")
def test_calibration(task: str, plan: str, asked: Asked, experiments: Experiments, run: RunDirectory) -> None:
    """Record whether a plan's model is as often right as it is sure to be, beside the dense model."""
    experiment = experiments[task]
    found = experiment.confidences(experiment.small(*asked))
    run.add_calibration(*calibration_rows(experiment, found, plan))


@pytest.mark.fills("texts.csv", task="task", plan="plan")
def test_texts(task: str, plan: str, asked: Asked, experiments: Experiments, run: RunDirectory) -> None:
    """Record how a plan's model goes on from the task's prompts, always by the likeliest token."""
    run.add_texts(text_rows(experiments[task].task, experiments[task].small(*asked), plan, PROMPTS, TOKENS))


@pytest.mark.fills("attention.npz", task="task")
def test_attention_maps(task: str, experiments: Experiments, settings: RunSettings, run: RunDirectory) -> None:
    """Record attention weights of held-out examples before and after pruning by the plan nearest to half of the heads.

    Where the task offers no such examples, only the plan's name is recorded.
    """
    criterion = shown_criterion(settings)
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
