"""The latency of a pruned model beside the dense one's, each shape timed once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import mha
from bench.pairing import Pair, Sample
from bench.study import Study


class Timing(NamedTuple):
    """The samples of one shape, and the case that took them."""

    case: str
    samples: list[Sample]
    seq_len: int | None
    dtype: str


class Latencies:
    """Times a plan, unless one with as many heads in each layer has been timed under the same conditions.

    Latency depends on the shape of a plan, not on which heads it names.

    Args:
        limits: how long the rounds of one shape may take and how many there may be, as `Pair.run` takes it.
        earlier: the record of the case that has these values in these fields and was timed in an earlier part of the
            run, if there is one.
    """

    def __init__(
        self, limits: Mapping[str, Any], earlier: Callable[..., Mapping[str, Any] | None] = lambda **_: None
    ) -> None:
        self._limits = limits
        self._earlier = earlier
        self._timed: dict[tuple[Any, ...], Timing] = {}

    def of(
        self, case: str, study: Study, plan: mha.HeadPlan, batch: int, device: str, benchmark: Callable[[], Any]
    ) -> Timing:
        """The timing of this plan's shape.

        Args:
            case: who asks; named in the timing if nobody has asked before.
            benchmark: gives pytest-benchmark's fixture; called only if there is something to time, since
                a fixture that is not used warns.
        """
        dense = study.dense(device)
        dtype = _dtype(dense)
        shape = study.describe(plan)["shape"]
        key = (study.task.name, batch, device, dtype, *shape)
        where = {"task": study.task.name, "batch": batch, "device": device, "dtype": dtype, "shape": shape}
        if key not in self._timed and (record := self._earlier(kind="pruning", **where)):
            self._timed[key] = Timing(record["case"], record["samples"], record["seq_len"], dtype)
        if key not in self._timed:
            args, kwargs = study.inputs(batch, device)
            seq_len = sequence_length(dense, args, kwargs)
            pair = Pair(forward(study.pruned(plan, device), args, kwargs), forward(dense, args, kwargs), device)
            samples = pair.run(benchmark(), **self._limits)
            self._timed[key] = Timing(case, samples, seq_len, dtype)
        return self._timed[key]


def sequence_length(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """The longest sequence that an attention layer of the model reads; None where no layer has batches first."""
    lengths: list[int] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:  # noqa: ARG001
        sequences = [part for part in (*inputs, *named.values()) if isinstance(part, Tensor) and part.dim() == 3]
        lengths.extend(sequence.shape[1] for sequence in sequences)

    layers = mha.find_attention(model).values()
    hooks = [layer.module.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        forward(model, args, kwargs)()
    finally:
        for hook in hooks:
            hook.remove()
    return max(lengths, default=None)


def forward(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Callable[[], Any]:
    """A call that runs the model on these inputs, without gradients."""
    named = dict(kwargs or {})

    def call() -> Any:
        with torch.inference_mode():
            return model(*args, **named)

    return call


def _dtype(model: nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
