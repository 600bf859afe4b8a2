"""Where the time goes, operator by operator, in the dense model and in pruned ones; and a trace of each.

    nox -s profile -- --task digits --keep 1,0.5,0.25

Fills `operators.csv`, `memory.csv` and `traces/`. Not collected among the benchmarks: a profiler takes time of its own,
so nothing here is compared with a timed sample. Every trace opens in Perfetto; TensorBoard's profiler plugin finds one
run for each kept fraction.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

from bench.models.experiment import DENSE, Experiment
from bench.rundir.directory import RunDirectory
from bench.settings.options import RunSettings, settings_of
from mha.timing import synchronize

WARM_UP, PASSES = 3, 5
PREFERRED = "leave_one_out"  # chooses the heads, unless --criteria leaves it out
STEP = "ProfilerStep"  # how the profiler names its own marks
CPU = DeviceType.CPU.value


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = settings_of(metafunc.config)
    kept = sorted({1.0, *settings.keep}, reverse=True)  # the dense model is what the others are read against
    cases = [(task.name, device, keep) for task in settings.tasks for device in settings.devices for keep in kept]
    ids = [case_name(*case) for case in cases]
    metafunc.parametrize(("subject", "device", "keep"), cases, ids=ids)


def case_name(task: str, device: str, keep: float) -> str:
    """The name of a profile's files, such as digits-keep0.5-cuda0."""
    return f"{task}-keep{keep:g}-{device.replace(':', '')}"


@pytest.mark.fills("operators.csv", task="subject", device="device", kept_fraction="keep")
def test_profile(
    subject: str,
    device: str,
    keep: float,
    experiments: Mapping[str, Experiment],
    settings: RunSettings,
    run: RunDirectory,
) -> None:
    """Trace a few forward passes; record what each operator took per pass, and the memory over the last pass."""
    experiment = experiments[subject]
    chosen = PREFERRED if PREFERRED in settings.criteria else settings.criteria[0]
    criterion = DENSE if keep == 1 else chosen
    plan = experiment.plan(criterion, keep)
    batch = settings.batch(experiment.task)
    call = experiment.call(plan, batch, device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        rows = list(profiled(call, device, trace))
        memory = list(memory_timeline(json.loads(trace.read_text(encoding="utf-8")), device))
        run.add_trace(case_name(subject, device, keep), trace)
    key = subject, device, criterion, keep, batch
    run.add_operators((*key, *row) for row in rows)
    run.add_memory((*key, *row) for row in memory)
    assert rows, "the profiler has seen no operator"


def profiled(call: Any, device: str, trace: Path) -> Iterator[tuple[Any, ...]]:
    """Profile some runs of a call, write their trace to the path `trace`, and yield a row for each operator.

    A row has the operator's name, and its calls, seconds, device_seconds and bytes per run. Seconds are an
    operator's own, without those of the operators that it calls; device_seconds are those of the kernels that it
    started.
    """
    activities = [ProfilerActivity.CPU]
    if device != "cpu":
        activities += [each for each in torch.profiler.supported_activities() if each != ProfilerActivity.CPU]
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
    for_tensorboard(trace)
    for event in profiler.key_averages():
        # kernels stand in the list, too, but their time is that of the operators that started them
        if event.device_type == DeviceType.CPU and not event.key.startswith(STEP):
            calls, own, there = event.count, event.self_cpu_time_total, event.self_device_time_total
            memory = event.self_cpu_memory_usage + event.self_device_memory_usage
            yield event.key, calls / PASSES, own / PASSES / 1e6, there / PASSES / 1e6, memory / PASSES


def for_tensorboard(trace: Path) -> None:
    """Rename categories in a trace that torch-tb-profiler, written for torch 1.8, would overlook or count twice.

    Otherwise the plugin finds no runtime calls, without which no kernel belongs to an operator, and twice as many
    steps. Perfetto shows any category under the name that it has.
    """
    document = json.loads(trace.read_text(encoding="utf-8"))
    renamed = [{**event, "cat": _known(event["cat"])} if "cat" in event else event for event in document["traceEvents"]]
    if renamed != document["traceEvents"]:
        trace.write_text(json.dumps({**document, "traceEvents": renamed}), encoding="utf-8")


def _known(category: str) -> str:
    """The category as torch-tb-profiler knows it: cuda_runtime, xpu_driver and the like are its "runtime"."""
    if category.endswith(("_runtime", "_driver")):
        return "runtime"
    return "device_annotation" if category == "gpu_user_annotation" else category


def memory_timeline(document: Mapping[str, Any], device: str) -> Iterator[tuple[float, int]]:
    """Yield (seconds, bytes) at each change of the device's memory during the last profiled pass, from (0, 0) on.

    Seconds are since the pass began; bytes are what has been allocated since then less what has been freed.

    Args:
        document: a trace with its "[memory]" events; times in it are microseconds.
    """
    events = document["traceEvents"]
    steps = [
        event for event in events if event["name"].startswith(f"{STEP}#") and event.get("cat") == "user_annotation"
    ]
    last = max(steps, key=lambda event: event["ts"])
    yield 0.0, 0
    allocated = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        since, details = event["ts"] - last["ts"], event["args"]
        if 0 <= since <= last["dur"] and (details["Device Type"] == CPU) == (device == "cpu"):
            allocated += details["Bytes"]
            yield since / 1e6, allocated
