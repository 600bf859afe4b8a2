"""The latency of a pruned model beside the dense one's, each shape timed once."""

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache as once_each
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import mha
from bench.measure.calls import forward, map_tensors
from bench.measure.counts import Counts, counts
from bench.measure.errors import described
from bench.measure.graphs import graph
from bench.measure.sampling import SampleRecord, sampled
from bench.models.experiment import Experiment
from bench.rundir.description import USUAL
from mha.timing import rotated

NAMED = ("dtype", "mode", "cache")  # in the name of a case, where they are not as usual
INPUTS = 4  # copies of an example that calls take turns with
Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Calls = list[Callable[[], Any]]


@dataclass(frozen=True)
class Place:
    """Where and how a model is timed.

    Attributes:
        device, dtype: by the names that torch gives them; floating-point inputs are of that dtype too.
        mode: "eager", "compile" for `torch.compile`, or "graph" for a CUDA graph.
        cache: "warm" or "cold", as `sampled` takes it.
        length: of the sequences; None for the task's own.
    """

    batch: int
    device: str
    dtype: str = USUAL["dtype"]
    mode: str = USUAL["mode"]
    cache: str = USUAL["cache"]
    length: int | None = None

    @property
    def id(self) -> str:
        """The place as part of a case's name, where dtype, mode and cache stand only if they are not the usual ones."""
        length = () if self.length is None else (f"s{self.length}",)
        unusual = [value for axis in NAMED if (value := getattr(self, axis)) != USUAL[axis]]
        return "-".join([f"b{self.batch}", *length, *unusual, self.device.replace(":", "")])


class Timing(NamedTuple):
    """What was measured of one shape of plan, as the fields of a case's record in the run directory.

    Attributes:
        case: name of the case that took the samples.
        seq_len: the longest sequence that an attention layer reads; None where that is not known.
        ended, warm_up: why the rounds ended, and how many came before the first sample.
        counts: "pruned" and "dense" -> what one call computes and moves.
    """

    case: str
    samples: list[SampleRecord]
    seq_len: int | None
    ended: str
    warm_up: int
    counts: dict[str, Counts]


class Latencies:
    """Times plans, and those of the same shape (as many heads in each layer) only once under the same conditions.

    Latency depends on the shape of a plan, not on which heads it names.

    Args:
        limits: how long the rounds of one shape may take and how many there may be, as `sampled` takes it.
        earlier: called with fields of a case; returns the record of a case that has these and was timed in an earlier
            part of the run, else None.
        seed: of the order in which models take turns.
    """

    def __init__(
        self,
        limits: Mapping[str, Any],
        earlier: Callable[..., Mapping[str, Any] | None] = lambda **_: None,
        seed: int = 0,
    ) -> None:
        self._limits, self._seed = limits, seed
        self._earlier = earlier
        self._timed: dict[Any, Timing] = {}
        self._dense: dict[Any, Counts] = {}

    def of(
        self,
        case: str,
        experiment: Experiment,
        plan: mha.HeadPlan,
        place: Place,
        request: pytest.FixtureRequest,
        facts: Mapping[str, Any] | None = None,
    ) -> Timing:
        """The timing of a plan's shape at a place, measured now if it has not been yet.

        Args:
            case: name of the case that asks; the timing gets it if no other case with this shape has asked before.
            request: of the test that asks; only if there is something to time will it have a `benchmark` fixture.
            facts: what pytest-benchmark's own file is to say about the case.

        Raises:
            RuntimeError: `torch.compile` can't compile one of the models.
        """
        task, shape = experiment.task.name, experiment.describe(plan)["shape"]
        key = task, place, tuple(shape)
        if key not in self._timed:
            known = self._earlier(kind="pruning", task=task, shape=shape, **asdict(place))
            self._timed[key] = (
                _read(known) if known else self._time(case, experiment, plan, place, request, facts or {})
            )
        return self._timed[key]

    def _time(
        self,
        case: str,
        experiment: Experiment,
        plan: mha.HeadPlan,
        place: Place,
        request: pytest.FixtureRequest,
        facts: Mapping[str, Any],
    ) -> Timing:
        """Time a plan's pruned model in turns with the dense model, and count what one call of each computes."""
        dense = cast(experiment.dense(place.device), place.dtype)
        models = {"pruned": cast(experiment.pruned(plan, place.device), place.dtype), "dense": dense}
        inputs = rotation(experiment.inputs(place.batch, place.device, place.length), place.dtype)
        seq_len = sequence_length(dense, *inputs[0])
        if (experiment, place) not in self._dense:  # the same for every plan
            self._dense[experiment, place] = counts(dense, dense, *inputs[0], place.device)
        pruned = counts(models["pruned"], models["pruned"], *inputs[0], place.device)
        arms = {name: rotated(calls) for name, calls in MODES[place.mode](models, inputs).items()}
        taken = sampled(
            request,
            arms,
            target="pruned",
            device=place.device,
            limits=self._limits,
            cache=place.cache,
            facts={**facts, **asdict(place), "timed_by": case, "seq_len": seq_len},
            seed=self._seed,
        )
        counted = {"pruned": pruned, "dense": self._dense[experiment, place]}
        return Timing(case, taken.samples, seq_len, taken.ended, taken.warm_up, counted)


def _read(record: Mapping[str, Any]) -> Timing:
    """The `Timing` in a case's record of an earlier part of the run."""
    return Timing(*(record[name] for name in Timing._fields))


def sequence_length(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """The longest sequence that any attention layer reads in a call of the model; None if none reads (b, n, e)."""
    lengths: list[int] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:  # noqa: ARG001
        sequences = [value for value in (*inputs, *named.values()) if isinstance(value, Tensor) and value.dim() == 3]
        lengths.extend(sequence.shape[1] for sequence in sequences)

    layers = mha.find_attention(model).values()
    hooks = [layer.module.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        forward(model, args, kwargs)()
    finally:
        for hook in hooks:
            hook.remove()
    return max(lengths, default=None)


def cast(model: nn.Module, dtype: str) -> nn.Module:
    """The model with floating-point weights of a dtype: itself if they are all of it already, else a copy."""
    wanted = getattr(torch, dtype)
    if all(weight.dtype == wanted for weight in model.parameters() if weight.is_floating_point()):
        return model
    return copy.deepcopy(model).to(wanted)


def rotation(inputs: Inputs, dtype: str) -> list[Inputs]:
    """Four copies of the inputs, each at its place in memory, with all floating-point tensors in a dtype."""
    wanted = getattr(torch, dtype)
    change = once_each(lambda tensor: tensor.to(wanted) if tensor.is_floating_point() else tensor)
    args, kwargs = inputs
    first = map_tensors(args, change), map_tensors(kwargs, change)
    return [first, *(copy.deepcopy(first) for _ in range(INPUTS - 1))]


def _eager(models: Mapping[str, nn.Module], inputs: list[Inputs]) -> dict[str, Calls]:
    """Name of each model -> its calls without arguments, one for each of the inputs."""
    return {name: [forward(model, *example) for example in inputs] for name, model in models.items()}


def _compiled(models: Mapping[str, nn.Module], inputs: list[Inputs]) -> dict[str, Calls]:
    """As `_eager`, with each model compiled by `torch.compile`; RuntimeError if one can't be."""
    torch.compiler.reset()  # else, after eight models of a class, it would give up and run the ninth as it is
    return _eager({name: compiled(model, inputs[0], name) for name, model in models.items()}, inputs)


def _as_graphs(models: Mapping[str, nn.Module], inputs: list[Inputs]) -> dict[str, Calls]:
    """As `_eager`, with each call recorded as a CUDA graph; RuntimeError if one can't be."""
    eager = _eager(models, inputs)
    return {name: [recorded(call, _device(models[name]), name) for call in calls] for name, calls in eager.items()}


MODES = {"eager": _eager, "compile": _compiled, "graph": _as_graphs}


def recorded(call: Callable[[], Any], device: torch.device | str, what: str) -> Callable[[], object]:
    """The call recorded as a CUDA graph.

    Args:
        what: how an error calls the model.

    Raises:
        RuntimeError: it can't be recorded.
    """
    try:
        return graph(call, device)
    except Exception as error:
        raise RuntimeError(
            f"the {what} model can't be recorded as a CUDA graph here ({described(error)}); leave out the mode graph"
        ) from error


def _device(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    return next(model.parameters()).device


def compiled(model: nn.Module, inputs: Inputs, what: str) -> nn.Module:
    """The model compiled by `torch.compile` for the shapes of these inputs, and called with them once.

    Args:
        what: how an error calls the model.

    Raises:
        RuntimeError: it can't be compiled.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # the compiler has warnings about parts of its own
            fast: Any = torch.compile(model, dynamic=False)
            forward(fast, *inputs)()
    except Exception as error:
        raise RuntimeError(
            f"torch.compile can't compile the {what} model here ({described(error)}); "
            "for the CPU it needs a C++ compiler, for a GPU Triton: install it, or leave out the mode compile"
        ) from error
    return fast
