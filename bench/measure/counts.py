"""Operations, bytes moved at least, and memory of one call, counted once per case, never while anything is timed."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.measure.calls import map_tensors
from bench.measure.memory import UnsendableError, peak_bytes
from mha.costs import count_flops, parameters_of

Counts = dict[str, int | None]


def counts(
    way: Callable[..., Any],
    weights: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    device: str,
    *,
    cache_bytes: int | None = None,
) -> Counts:
    """What one call of an arm computes and moves at least: the fields of its `counts` in the run directory.

    Args:
        way: the arm, called with `args` and `kwargs`. Its peak memory is measured if it is a module.
        weights: the module whose parameters the arm computes with.
        cache_bytes: of a key/value cache that the call reads or writes besides; None without one.

    Returns:
        `flops`, `attention_flops` (those of attention among them), `bytes` (of parameters, inputs, outputs and cache,
        each once), `parameters`, `peak_bytes` (None where it was not measured) and `cache_bytes`.
    """
    with torch.inference_mode():
        output = way(*args, **kwargs)
    flops = count_flops(lambda: way(*args, **kwargs))
    tensors: list[Tensor] = [*weights.parameters()]
    map_tensors([args, kwargs, output], tensors.append)
    moved = {id(tensor): tensor.nbytes for tensor in tensors}
    return {
        "flops": flops.total,
        "attention_flops": flops.attention,
        "bytes": sum(moved.values()) + (cache_bytes or 0),
        "parameters": parameters_of(weights),
        "peak_bytes": _peak(way, args, kwargs, device),
        "cache_bytes": cache_bytes,
    }


def _peak(way: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], device: str) -> int | None:
    """The `peak_bytes` of a call; None also if `way` is no module, or can't be sent to the measuring process."""
    try:
        return peak_bytes(way, args, kwargs, device) if isinstance(way, nn.Module) else None
    except UnsendableError:
        return None
