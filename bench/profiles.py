"""Where the time goes, operator by operator, in the dense model and in pruned ones; and a trace of each.

    nox -s profile -- --task digits --keep 1,0.5,0.25

Not collected among the benchmarks: a profiler takes time of its own, so nothing here is compared with a timed sample.
Every trace opens in Perfetto; TensorBoard's profiler plugin finds one run for each kept fraction.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, schedule

from bench.calls import forward
from bench.options import Settings, settings_of
from bench.rundir import RunDirectory
from bench.study import DENSE, Study
from mha.timing import synchronize

WARM_UP, PASSES = 3, 5
PREFERRED = "leave_one_out"  # chooses the heads, unless --criteria leaves it out
STEP = "ProfilerStep"  # how the profiler names its own marks


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = settings_of(metafunc.config)
    kept = sorted({1.0, *settings.keep}, reverse=True)  # the dense model is what the others are read against
    cases = [(task.name, device, keep) for task in settings.tasks for device in settings.devices for keep in kept]
    ids = [case_name(*case) for case in cases]
    metafunc.parametrize(("subject", "device", "keep"), cases, ids=ids)


def case_name(task: str, device: str, keep: float) -> str:
    return f"{task}-keep{keep:g}-{device.replace(':', '')}"


@pytest.mark.fills("operators.csv", task="subject", device="device", kept_fraction="keep")
def test_profile(
    subject: str, device: str, keep: float, studies: Mapping[str, Study], settings: Settings, run: RunDirectory
) -> None:
    """The trace of a few forward passes, and what each operator took in one of them."""
    study = studies[subject]
    chosen = PREFERRED if PREFERRED in settings.criteria else settings.criteria[0]
    criterion = DENSE if keep == 1 else chosen
    plan = study.plan(criterion, keep)
    batch = settings.batch(study.task)
    args, kwargs = study.inputs(batch, device)
    call = forward(study.pruned(plan, device), args, kwargs)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        rows = list(profiled(call, device, trace))
        run.add_trace(case_name(subject, device, keep), trace)
    run.add_operators((subject, device, criterion, keep, batch, *row) for row in rows)
    assert rows, "the profiler has seen no operator"


def profiled(call: Any, device: str, trace: Path) -> Iterator[tuple[Any, ...]]:
    """Run and write the trace; operator, calls, seconds, device_seconds and bytes, each of one pass.

    Seconds are an operator's own, without those of the operators that it calls.
    """
    activities = [ProfilerActivity.CPU]
    if device != "cpu":
        activities += [one for one in torch.profiler.supported_activities() if one != ProfilerActivity.CPU]
    plan = schedule(wait=0, warmup=WARM_UP, active=PASSES)
    with profile(
        activities=activities,
        schedule=plan,
        record_shapes=True,
        profile_memory=True,
        on_trace_ready=lambda done: done.export_chrome_trace(str(trace)),
        acc_events=True,
    ) as profiler:
        for _ in range(WARM_UP + PASSES):
            call()
            synchronize(device)
            profiler.step()
    for event in profiler.key_averages():
        if not event.key.startswith(STEP):
            calls, own, there = event.count, event.self_cpu_time_total, event.self_device_time_total
            memory = event.self_cpu_memory_usage + event.self_device_memory_usage
            yield event.key, calls / PASSES, own / PASSES / 1e6, there / PASSES / 1e6, memory / PASSES
