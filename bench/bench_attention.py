"""The bare attention layer: ours beside other implementations, and ours sliced beside ours whole.

All have the same weights. Before anything is timed their outputs are compared.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import mha
from bench.measure.calls import forward
from bench.measure.counts import Counts, counts
from bench.measure.sampling import sampled
from bench.models.latency import compiled
from bench.models.peers import PEERS, Attend, Inputs, NoPeerError, ours, products
from bench.rundir.directory import RunDirectory
from bench.settings.layer_cases import Cell, sliced, whole
from bench.settings.options import Settings, settings_of
from mha.timing import rotated

Makers = Mapping[str, Callable[[mha.MultiHeadAttention, Sequence[int]], Attend]]

WHOLE: Makers = {name: PEERS[name] for name in ("linears", "torch", "textbook", "transformers")} | {
    "products": products
}
SLICED: Makers = {name: PEERS[name] for name in ("torch_pruning", "masked")}
COMPILED: Makers = {"linears": PEERS["linears"]}
DIFFERENCE = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}  # between outputs, as a share of their norm


class Arm(NamedTuple):
    """Something to time: a way to attend, and the inputs it takes turns with."""

    attend: Attend
    inputs: list[Inputs]

    def calls(self) -> list[Callable[[], Any]]:
        return [forward(self.attend, (one,)) for one in self.inputs]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cells = whole if metafunc.function is test_beside_peers else sliced
    metafunc.parametrize("cell", list(cells(settings_of(metafunc.config))), ids=lambda cell: cell.id)


def test_beside_peers(cell: Cell, settings: Settings, run: RunDirectory, request: pytest.FixtureRequest) -> None:
    """Ours and others, all heads in place; also ours as bare products, and, of another dtype, in float32."""
    with run.case(**cell.record()) as record:
        beside = WHOLE if cell.mode == "eager" else COMPILED
        _time(cell, {"mha": ours, **beside}, "mha", settings, record, request)


def test_sliced(cell: Cell, settings: Settings, run: RunDirectory, request: pytest.FixtureRequest) -> None:
    """Ours with some heads cut out, and whole; beside what others make of the same heads."""
    with run.case(**cell.record()) as record:
        beside = SLICED if cell.mode == "eager" else {}
        _time(cell, {"pruned": ours, "dense": _dense, **beside}, "pruned", settings, record, request)


def _dense(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:  # noqa: ARG001
    return ours(layer, range(layer.num_heads))


def _time(
    cell: Cell,
    makers: Makers,
    target: str,
    settings: Settings,
    record: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    """Make the arms, compare what they put out, count what they do, and time them in turns."""
    layer, inputs = cell.layer(), cell.inputs()
    arms = {name: Arm(attend, inputs) for name, attend in _made(makers, layer, cell.kept, record["skipped_arms"])}
    with torch.inference_mode():
        _check_outputs(cell, {name: arm.attend for name, arm in arms.items() if name != "dense"}, target, inputs[0])
    arms |= _in_other_ways(cell, target, arms)
    record["counts"] = {name: _counts(cell, arm, layer) for name, arm in arms.items()}
    if cell.mode == "compile":
        arms = {name: arm if name == "eager" else _compiled(name, arm) for name, arm in arms.items()}
    limits = {**settings.limits, "seconds": settings.limits["seconds"] * len(arms) / 2}
    found = sampled(
        request,
        {name: rotated(arm.calls()) for name, arm in arms.items()},
        target=target,
        device=cell.device,
        limits=limits,
        cache=cell.cache,
        facts=cell.record(),
        seed=settings.process,
    )
    record |= found._asdict()


def _made(
    makers: Makers, layer: mha.MultiHeadAttention, kept: Sequence[int], skipped: dict[str, str]
) -> Iterator[tuple[str, Attend]]:
    for name, make in makers.items():
        try:
            yield name, make(layer, kept)
        except NoPeerError as error:
            skipped[name] = str(error)


def _check_outputs(cell: Cell, ways: Mapping[str, Attend], target: str, inputs: Inputs) -> None:
    """Refuse to time what computes something else, at the real positions."""
    real = inputs.real()
    expected = ways[target](inputs)[real].double()
    for name, attend in ways.items():
        away = float((attend(inputs)[real].double() - expected).norm() / expected.norm())
        if not away <= DIFFERENCE[cell.dtype]:
            raise AssertionError(
                f"{cell.id}: the outputs of {name!r} and {target!r} differ by {away:.2g} of their norm; expected at "
                f"most {DIFFERENCE[cell.dtype]:g} in {cell.dtype}, so their times can't be compared"
            )


def _in_other_ways(cell: Cell, target: str, arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """The target without `torch.compile`, and in float32."""
    ways = {}
    if cell.mode == "compile":
        ways["eager"] = arms[target]
    if cell.dtype != "float32":
        usual = replace(cell, dtype="float32")
        ways["float32"] = Arm(ours(usual.layer(), cell.kept), usual.inputs())
    return ways


def _counts(cell: Cell, arm: Arm, layer: mha.MultiHeadAttention) -> Counts:
    weights = arm.attend if isinstance(arm.attend, nn.Module) else mha.prune(layer, mha.HeadPlan({"": cell.kept}))
    return counts(arm.attend, weights, (arm.inputs[0],), {}, cell.device)


def _compiled(name: str, arm: Arm) -> Arm:
    assert isinstance(arm.attend, nn.Module), name
    return Arm(compiled(arm.attend, ((arm.inputs[0],), {}), name), arm.inputs)
