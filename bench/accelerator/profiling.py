"""python -m bench.accelerator.profiling RUN -o DIR: where the time goes in the cells that miss their target.

Writes profiles.txt: for each call its time by the clock, how long the device was busy meanwhile, and its operators.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.accelerator.targets import missed
from bench.bench_generation import GenerationCase, decode
from bench.measure.calls import forward
from bench.models.peers import PEERS, ours
from bench.models.random_llamas import HALVES, random_llama
from bench.rundir.case_store import read_records
from bench.settings.layer_cases import LayerCase
from mha.timing import synchronize

MOST = 5  # cells
WARM_UP, PASSES, ROWS = 5, 10, 10
WIDTH = 60  # of operators' names
PEERS_TOO = ("linears", "torch", "transformers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile the worst cells of a run, and one token of a large model; write profiles.txt. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.accelerator.profiling", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "profiles.txt").open("w", encoding="utf-8") as file:
        for line in lines(options.run, options.device):
            file.write(f"{line}\n")
            file.flush()
    return 0


def lines(run: Path, device: str) -> Iterator[str]:
    """Yield the lines of profiles.txt."""
    cases = {record["case"]: record for record in read_records(run / "cases")}
    for name in missed(run, MOST):
        case = _layer_case(cases[name])
        layer, inputs = case.layer(), case.inputs()
        ways: dict[str, Callable[..., Any]] = {"ours": ours(layer, case.kept)}
        if case.keep == 1:
            ways |= {peer: PEERS[peer](layer, case.kept) for peer in PEERS_TOO if _is_there(peer)}
        for way, attend in ways.items():
            yield from profiled(f"{name}, {way}", forward(attend, (inputs[0],)), device)
    if device != "cpu" and _is_there("transformers"):
        token = GenerationCase("llama-1b", 1.0, "decode", 1, 1024, device, HALVES[0])
        prepare = decode(token, random_llama(token.subject, device, token.dtype))
        yield from profiled(token.id, lambda: prepare()(), device)


def profiled(name: str, call: Callable[[], object], device: str) -> Iterator[str]:
    """Yield lines on a call: its time, how long the device was busy, and the operators that kept it busy longest."""
    for _ in range(WARM_UP):
        call()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(PASSES):
        call()
        synchronize(device)
    took = (time.perf_counter() - start) / PASSES
    activities = [
        each for each in torch.profiler.supported_activities() if device != "cpu" or each == ProfilerActivity.CPU
    ]
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(PASSES):
            call()
            synchronize(device)
    events = profiler.key_averages()
    kernels = [event for event in events if event.device_type != torch.autograd.DeviceType.CPU]
    shown = kernels or list(events)
    spent = {id(event): event.self_device_time_total or event.self_cpu_time_total for event in shown}
    busy = sum(spent.values()) / PASSES / 1e6
    yield f"{name}: {1e6 * took:.0f} us a call, device busy for {1e6 * busy:.0f} us ({busy / took:.0%})"
    for event in sorted(shown, key=lambda event: -spent[id(event)])[:ROWS]:
        yield f"  {spent[id(event)] / PASSES:10.1f} us {event.count / PASSES:6.1f} x  {event.key[:WIDTH]}"


def _layer_case(record: dict[str, Any]) -> LayerCase:
    """The case of the bare layer that a record of the run directory is of."""
    names = ("batch", "device", "dtype", "head_dim", "mask", "cache")
    how = {name: record[name] for name in names}
    return LayerCase(heads=record["heads_total"], length=record["seq_len"], keep=record["kept_fraction"], **how)


def _is_there(peer: str) -> bool:
    """Whether a peer can be had here: transformers' only where that is installed."""
    if peer != "transformers":
        return True
    from importlib.util import find_spec

    return find_spec("transformers") is not None


if __name__ == "__main__":
    sys.exit(main())
