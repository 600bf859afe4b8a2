"""What pruning costs and what it saves: scores, accuracy and latency of every plan of every task.

Accuracy is measured once for each plan, latency for each plan, batch size and device, beside the dense
model. Accuracy comes first: it says whether a run is worth its timings.
"""

from collections.abc import Mapping

import pytest

from bench.models.attention_maps import attention_maps
from bench.models.experiment import Study
from bench.models.latency import Latencies
from bench.rundir.directory import RunDirectory
from bench.settings.options import Settings, settings_of
from bench.settings.task_cases import Timed, Variant, timed, variants

Studies = Mapping[str, Study]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = settings_of(metafunc.config)
    tasks = [task.name for task in settings.tasks]
    scored = [name for name in settings.criteria if name not in ("random", "even")]
    if metafunc.function is test_scores:
        pairs = [(task, criterion) for task in tasks for criterion in scored]
        metafunc.parametrize(("task", "criterion"), pairs, ids=["-".join(pair) for pair in pairs])
    elif metafunc.function is test_accuracy:
        metafunc.parametrize("variant", list(variants(settings)), ids=lambda variant: variant.id)
    elif metafunc.function is test_attention_maps:
        metafunc.parametrize("task", tasks)
    elif metafunc.function is test_latency:
        metafunc.parametrize("case", list(timed(settings)), ids=lambda case: case.id)


@pytest.mark.fills("scores.csv", task="task", criterion="criterion")
def test_scores(task: str, criterion: str, studies: Studies, run: RunDirectory) -> None:
    """How much each head matters, and how long it takes to find out."""
    scores, seconds = studies[task].scores(criterion)
    rows = scores.to_frame()[["layer", "head", "score"]].itertuples(index=False)
    run.add_scores([(task, criterion, layer, head, score, seconds) for layer, head, score in rows])


def test_accuracy(variant: Variant, studies: Studies, run: RunDirectory) -> None:
    """A plan's accuracy on held-out examples, and its paired difference to the dense model's."""
    study = studies[variant.task]
    with run.plan(**variant.record(), draw=variant.draw) as record:
        plan = study.plan(variant.criterion, variant.keep, variant.draw)
        record |= study.accuracy(plan)


@pytest.mark.fills("attention.npz", task="task")
def test_attention_maps(task: str, studies: Studies, settings: Settings, run: RunDirectory) -> None:
    """Attention weights of held-out examples before and after pruning, for tasks that offer some."""
    criterion = "leave_one_out" if "leave_one_out" in settings.criteria else settings.criteria[0]
    keep = min(settings.keep, key=lambda fraction: abs(fraction - 0.5))
    variant = Variant(task, criterion, keep)
    run.add_attention(attention_maps(studies[task], studies[task].plan(criterion, keep), variant.plan))


def test_latency(
    case: Timed, studies: Studies, latencies: Latencies, run: RunDirectory, request: pytest.FixtureRequest
) -> None:
    """The pruned model's forward pass, interleaved with the dense one's."""
    variant, study = case.variant, studies[case.variant.task]
    with run.case(**case.record()) as record:
        plan = study.plan(variant.criterion, variant.keep)
        record |= study.describe(plan)
        facts = {key: value for key, value in record.items() if key not in ("samples", "error", "status")}
        timing = latencies.of(case.id, study, plan, case.place, request, facts)
        record |= {"timed_by": timing.case, "seq_len": timing.seq_len}
        if timing.case == case.id:
            measured = ("samples", "ended", "warm_up", "counts")
            record |= {name: getattr(timing, name) for name in measured}
