"""Timing attention layers at several numbers of heads, interleaved with the model that they are part of."""

import copy
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mha.costs.capture import CallArguments
from mha.costs.fit import Fit
from mha.costs.in_runtime import InRuntime
from mha.costs.measured import LayerKind, MeasuredModel
from mha.costs.shapes import Shape
from mha.costs.table import CostTable
from mha.families.base.find import required_attention
from mha.pruning.masking import eval_mode
from mha.runtime.locking import locked
from mha.runtime.progress import Bar
from mha.timing.quantiles import Spread
from mha.timing.rounds import Rounds
from mha.values.errors import CostsError

DENSE = "dense"
SHARES = (0.0, 0.25, 0.5)  # of every layer's heads, kept in the whole models that are timed
FEWEST = 8  # rounds that every function takes part in
STEADY = 0.01  # of the dense model's time: half the width of an interval that is narrow enough
BEND = 0.005  # of the dense model's time: a smaller distance from a straight line does not matter
CPU_FACTS = Path("/proc/cpuinfo")


def measure_costs(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    device: torch.device | str | None = None,
    seconds: float = 30.0,
    progress: bool | None = None,
    runtime: str | None = None,
) -> CostTable:
    """What each attention layer costs at each number of heads, on this device and for inputs like these.

    The layers' own inputs are caught while the model runs once. Sliced copies of each layer are then timed alone on
    them, and the dense model and a few pruned ones as a whole, all in turns and in a new order every round; each
    time is divided by the dense model's of the same round. Layers of the same shapes with inputs of the same shapes
    are measured once for all. A few numbers of heads are timed, more where the time is not linear in them; what
    lies between is interpolated. The model runs in eval mode without gradients and is left as it was.

    Args:
        args, kwargs: what the model is called with; their batch and length are those that the table is for. Caches
            among them are copied for every call.
        device: where to measure; where the model is, unless given.
        seconds: how long timing may take; the table's `ended` says whether that sufficed. A slow model takes longer:
            every function takes part in eight rounds at least.
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.
            It goes by time and by rounds: measuring may end sooner, or go on where more shapes are needed.
        runtime: "onnx", "openvino" or "torch" (`torch.export`): all is exported, and timed there on the CPU, so that
            a budget of latency is that of where the model will run. Exporting takes its time beside `seconds`.

    Raises:
        CostsError: the model can't be called with these arguments, has no data (the meta device)
            or no time, or a cache in them has been filled by the dense model; or it can't be measured in the runtime.
        MissingPackageError: a package of the runtime is not installed.
        UnsupportedModule: the model has no attention of a known family.

    Example:
        >>> model, x = mha.MultiHeadAttention.square(8, num_heads=2), torch.randn(3, 5, 8)
        >>> costs = mha.measure_costs(model, (x, x, x), seconds=0.05, progress=False)
        >>> plan = mha.HeadPlan({"": [0]})
        >>> costs.parameters(plan)
        Predicted(value=128, share=0.5)
        >>> costs.latency(plan).value > 0  # seconds
        True
    """
    _check(model, seconds)
    where = _device_of(model) if device is None else torch.device(device)
    if runtime is not None and where.type != "cpu":
        raise CostsError(f"exports are timed on the CPU, got device {where} for runtime {runtime!r}; give device='cpu'")
    with ExitStack() as open_, locked(model, by="mha.measure_costs"), eval_mode(model):
        there = None if runtime is None else open_.enter_context(InRuntime(runtime))
        placed = model if _is_on(model, where) else copy.deepcopy(model).to(where)
        bar = Bar("measure_costs", progress)
        bar.expect(1)
        with bar.shown():
            bar.doing("preparing layers")
            measured = MeasuredModel.of(
                placed, CallArguments(args, kwargs).on(where), None if there is None else there.readied
            )
            clock = time.perf_counter if there is None else there.clock
            start = clock()
            timings = _Timings(measured, where, clock, in_torch=there is None)
            ended = timings.run(start, seconds, bar)
        facts = _environment(timings, where, clock() - start)
        facts |= {} if there is None else {"runtime": there.version}
        return timings.fit().table(facts, ended)


class _Timings:
    """Everything that takes turns: the dense model, the model with a share of its heads, and layers by themselves.

    They are known to `Rounds` as DENSE, by their share, and as (kind of layer, shape).

    Args:
        clock: in seconds, as `time.perf_counter`; it may stand still while arms are made ready.
        in_torch: whether they run in torch, where a class that pruning replaces may cost something by itself.
    """

    def __init__(
        self, measured: MeasuredModel, device: torch.device, clock: Callable[[], float], *, in_torch: bool
    ) -> None:
        self.measured, self.kinds, self._clock = measured, measured.kinds, clock
        self.shares = (*SHARES, 1.0) if in_torch and measured.changes_class() else SHARES
        self.rounds = Rounds(device)
        self.rounds.add(DENSE, measured.calling(measured.model, measured.call))
        for share in self.shares:
            self.rounds.add(share, measured.ready(share))
        self._join()

    def run(self, start: float, seconds: float, bar: Bar) -> str:
        """Run rounds until all intervals are narrow and no more shapes needed, or time is spent; returns what ended it.

        Args:
            start: when timing began, by the clock.
            seconds: how long it may take.
        """
        joined, patience = 0, start + seconds / 3
        while True:
            bar.doing(f"round {self.rounds.count + 1}")
            self.rounds.run()
            share = min((self._clock() - start) / seconds, (self.rounds.count - joined) / FEWEST, 1.0)
            bar.advance(max(0.0, share - bar.done))
            if self.rounds.count - joined < FEWEST:
                continue
            now, steady = self._clock(), self.steady()
            if now > start + seconds:
                return "steady" if steady else "time spent"
            if (steady or now > patience) and now < start + seconds * 2 / 3 and self._refine():
                joined, patience = self.rounds.count, self._clock() + seconds / 3
            elif steady:
                return "steady"

    def steady(self) -> bool:
        """Whether half the width of every interval is at most `STEADY`, a share of the dense model's time.

        The interval of a layer by itself is multiplied by its kind's `uses` before.
        """
        wholes = (self._of(share).half_width for share in self.shares)
        alone = (kind.uses * self._of((kind, shape)).half_width for kind, shape in self._points())
        return all(width <= STEADY for width in (*wholes, *alone))

    def fit(self) -> Fit:
        """The `Fit` to the times taken so far."""
        wholes = {share: self._of(share) for share in self.shares}
        alone = {kind: {shape: self._of((kind, shape)) for shape in kind.grid.shapes()} for kind in self.kinds}
        return Fit(self.measured, self.rounds.seconds(DENSE), wholes, alone)

    def _points(self) -> Iterator[tuple[LayerKind, Shape]]:
        """Yield every kind of layer with every shape that it is measured in."""
        return ((kind, shape) for kind in self.kinds for shape in kind.grid.shapes())

    def _of(self, name: object) -> Spread:
        """The time of the arm of this name in `Rounds`, divided by the dense model's of the same round.

        It is the median over rounds, with its 95 % interval.
        """
        return self.rounds.ratio(name, DENSE)

    def _refine(self) -> bool:
        """Add the shapes that are to be measured too (see `Grid.refine`); returns whether there are any."""
        for kind in self.kinds:
            kind.grid.refine(partial(self._bends, kind))
        return self._join()

    def _bends(self, kind: LayerKind, low: Shape, middle: Shape, high: Shape) -> bool:
        """Whether the middle shape's time is off the line between the others' by more than noise, and than BEND."""
        left, between, right = (self._of((kind, shape)) for shape in (low, middle, high))
        way = (middle.heads - low.heads) / (high.heads - low.heads)
        distance = abs(between.value - left.value - way * (right.value - left.value))
        return distance > between.half_width and distance * kind.uses > BEND

    def _join(self) -> bool:
        """Add layers in the shapes that are not timed yet to the rounds; returns whether there were any."""
        new = [(kind, shape) for kind, shape in self._points() if (kind, shape) not in self.rounds]
        for kind, shape in new:
            self.rounds.add((kind, shape), kind.sliced(shape))
        return bool(new)


def _check(model: nn.Module, seconds: float) -> None:
    """Check, before anything is measured, that the model can be timed within `seconds`.

    Raises:
        CostsError: `seconds` is not above 0, or the model has no data (the meta device).
        UnsupportedModule: the model has no attention of a known family.
    """
    if not seconds > 0:
        raise CostsError(f"seconds is how long measuring may take, above 0, got {seconds}")
    required_attention(model)
    if meta := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise CostsError(f"{meta[0]} is on the meta device: a model without weights can't be timed; load them first")


def _device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    return next(model.parameters()).device


def _is_on(model: nn.Module, device: torch.device) -> bool:
    """Whether the model is on the device already; a device without an index, as "cuda", stands for any of its type."""
    here = _device_of(model)
    return here.type == device.type and device.index in (None, here.index)


def _environment(timings: _Timings, device: torch.device, spent: float) -> dict[str, Any]:
    """The table's `environment`: by name, what the times depend on.

    That is the device, its name, torch's version and number of threads, the dtype, the inputs, and how many rounds were
    run in how many seconds (`spent`).
    """
    model = timings.measured.model
    return {
        "device": str(device),
        "device_name": _device_name(device),
        "threads": torch.get_num_threads(),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "inputs": str(timings.measured.call),
        "torch": str(torch.__version__),
        "rounds": timings.rounds.count,
        "seconds": spent,
    }


def _device_name(device: torch.device) -> str | None:
    """The model name of the GPU or CPU; None, or the device's type, where the system does not tell."""
    if device.type == "cpu":
        lines = CPU_FACTS.read_text(encoding="utf-8").splitlines() if CPU_FACTS.exists() else []
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return models[0] if models else platform.processor() or None
    module = torch.get_device_module(device)
    return str(module.get_device_name(device)) if hasattr(module, "get_device_name") else device.type
