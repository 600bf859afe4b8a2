"""The bare attention layer: ours beside other implementations, and ours sliced beside ours whole.

Fills `cases/` (kind "attention"). All implementations have the same weights, and their outputs are compared before they
are timed.
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
from bench.measure.errors import reason
from bench.measure.sampling import sampled
from bench.models.latency import compiled, recorded
from bench.models.peers import PEERS, Attend, Inputs, NoPeerError, ours, products
from bench.rundir.description import OUT_OF_MEMORY
from bench.rundir.directory import RunDirectory
from bench.rundir.out_of_memory import out_of_memory
from bench.settings.layer_cases import LayerCase, sliced, whole
from bench.settings.options import RunSettings, settings_of
from mha.timing import rotated

Makers = Mapping[str, Callable[[mha.MultiHeadAttention, Sequence[int]], Attend]]

WHOLE: Makers = {name: PEERS[name] for name in ("linears", "torch", "textbook", "transformers")} | {
    "products": products
}
SLICED: Makers = {name: PEERS[name] for name in ("torch_pruning", "masked")}
PADDED: Makers = {**WHOLE, "nested": PEERS["nested"]}
COMPILED: Makers = {"linears": PEERS["linears"]}
DIFFERENCE = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}  # between outputs, as a share of their norm


class Arm(NamedTuple):
    """One of the things timed: an implementation of attention, and the inputs, of which each call gets the next."""

    attend: Attend
    inputs: list[Inputs]

    def calls(self) -> list[Callable[[], Any]]:
        """A function without arguments for each of the inputs, which attends to them without gradients."""
        return [forward(self.attend, (inputs,)) for inputs in self.inputs]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = whole if metafunc.function is test_beside_peers else sliced
    metafunc.parametrize("case", list(cases(settings_of(metafunc.config))), ids=lambda case: case.id)


def test_beside_peers(
    case: LayerCase, settings: RunSettings, run: RunDirectory, request: pytest.FixtureRequest
) -> None:
    """Time our whole layer in turns with other implementations, and record samples and counts.

    A compiled case has only "linears" beside it, and our layer in eager mode; one that is recorded as a CUDA graph has
    all peers, recorded as well. A padded batch has nested tensors beside it. In another dtype than float32 our layer is
    also timed in float32.
    """
    with run.case(**case.record()) as record:
        beside = COMPILED if case.mode == "compile" else PADDED if case.mask == "padded" else WHOLE
        _time(case, {"mha": ours, **beside}, "mha", settings, record, request)


def test_sliced(case: LayerCase, settings: RunSettings, run: RunDirectory, request: pytest.FixtureRequest) -> None:
    """Time our layer with heads cut out in turns with the whole layer, and record samples and counts.

    Unless compiled, beside it are also the other ways to remove the same heads (`SLICED`); compiled or as a CUDA graph
    our layer in eager mode; in another dtype than float32 also our layer in float32.
    """
    with run.case(**case.record()) as record:
        beside = {} if case.mode == "compile" else SLICED
        _time(case, {"pruned": ours, "dense": _dense, **beside}, "pruned", settings, record, request)


def _dense(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:  # noqa: ARG001
    """Our layer with all of its heads, whatever is in `kept`."""
    return ours(layer, range(layer.num_heads))


def _time(
    case: LayerCase,
    makers: Makers,
    target: str,
    settings: RunSettings,
    record: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    """Make the arms, compare their outputs, count what they compute and move, and time them in turns.

    Args:
        makers: name of an arm -> what makes it from the layer and the heads to keep.
        target: the arm that the others are compared with.
        record: the case's record, which gets the counts, the samples, and the reason for each arm that can't be had.

    Raises:
        AssertionError: an arm's output differs too much from the target's.
    """
    layer, inputs = case.layer(), case.inputs()
    arms = {name: Arm(attend, inputs) for name, attend in _made(makers, layer, case.kept, record["skipped_arms"])}
    with torch.inference_mode():
        ways = {name: arm.attend for name, arm in arms.items() if name != "dense"}
        too_large = dict(_check_outputs(case, ways, target, inputs[0]))
    record["skipped_arms"] |= too_large
    arms = {name: arm for name, arm in arms.items() if name not in too_large}
    arms |= _in_other_ways(case, target, arms)
    record["counts"] = {name: _counts(case, arm, layer) for name, arm in arms.items()}
    if case.mode == "compile":
        arms = {name: arm if name == "eager" else _compiled(name, arm) for name, arm in arms.items()}
    calls = {name: arm.calls() for name, arm in arms.items()}
    for name in calls.keys() - {"eager"} if case.mode == "graph" else ():
        calls[name] = [recorded(call, case.device, name) for call in calls[name]]
    limits = {**settings.limits, "seconds": settings.limits["seconds"] * len(arms) / 2}
    timing = sampled(
        request,
        {name: rotated(each) for name, each in calls.items()},
        target=target,
        device=case.device,
        limits=limits,
        cache=case.cache,
        facts=case.record(),
        seed=settings.process,
    )
    record |= timing._asdict()


def _made(
    makers: Makers, layer: mha.MultiHeadAttention, kept: Sequence[int], skipped: dict[str, str]
) -> Iterator[tuple[str, Attend]]:
    """Yield name and call of each implementation; `skipped` gets the message of each one that raises `NoPeerError`."""
    for name, make in makers.items():
        try:
            yield name, make(layer, kept)
        except NoPeerError as error:
            skipped[name] = str(error)


def _check_outputs(
    case: LayerCase, ways: Mapping[str, Attend], target: str, inputs: Inputs
) -> Iterator[tuple[str, str]]:
    """Refuse implementations whose outputs are not the target's; tokens that are padding do not count.

    Args:
        ways: name -> implementation, the target among them.

    Yields:
        (name, why) of each implementation but the target that needs more memory than there is.

    Raises:
        AssertionError: the norm of the difference, as a share of the target's norm, exceeds `DIFFERENCE` of the dtype.
    """
    real = inputs.real()
    expected = ways[target](inputs)[real].double()
    for name, attend in ways.items():
        try:
            output = attend(inputs)[real].double()
        except Exception as error:
            if name == target or not out_of_memory(error):
                raise
            yield name, f"{OUT_OF_MEMORY}: {reason(error)}"
            continue
        away = float((output - expected).norm() / expected.norm())
        if not away <= DIFFERENCE[case.dtype]:
            raise AssertionError(
                f"{case.id}: the outputs of {name!r} and {target!r} differ by {away:.2g} of their norm; expected at "
                f"most {DIFFERENCE[case.dtype]:g} in {case.dtype}, so their times can't be compared"
            )


def _in_other_ways(case: LayerCase, target: str, arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """The target once more: as arm "eager" if the case has another mode, as arm "float32" if it has another dtype."""
    ways = {}
    if case.mode != "eager":
        ways["eager"] = arms[target]
    if case.dtype != "float32":
        usual = replace(case, dtype="float32")
        ways["float32"] = Arm(ours(usual.layer(), case.kept), usual.inputs())
    return ways


def _counts(case: LayerCase, arm: Arm, layer: mha.MultiHeadAttention) -> Counts:
    weights = arm.attend if isinstance(arm.attend, nn.Module) else mha.prune(layer, mha.HeadPlan({"": case.kept}))
    return counts(arm.attend, weights, (arm.inputs[0],), {}, case.device)


def _compiled(name: str, arm: Arm) -> Arm:
    assert isinstance(arm.attend, nn.Module), name
    return Arm(compiled(arm.attend, ((arm.inputs[0],), {}), name), arm.inputs)
