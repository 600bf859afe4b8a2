"""Parameters and floating-point operations: counted on what pruning really yields, never from a formula per family."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mha.costs.alike import Key, kind_of
from mha.costs.shapes import Shape, feasible_shapes, first_heads
from mha.families import AttentionLayer, AttentionMap
from mha.pruning.slicing import prune
from mha.runtime.undoing import Setting
from mha.values.plan import HeadPlan

UNCOUNTED = (  # fused attention that torch's counter has no formula for, and so takes for nothing
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
)
ATTENTION = (
    "dot_product",
    "bmm",
    "_attention_forward",
    "flex_attention",
)  # in the names of what multiplies two computed tensors

_FAST_PATH = Setting(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled)


def parameters_of(module: nn.Module) -> int:
    """How many numbers its parameters hold, each parameter once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_parameters(layers: AttentionMap) -> dict[str, dict[Shape, int]]:
    """Layer -> shape -> the layer's parameters when pruned to that shape. Takes no memory and reads no weights."""
    counted: dict[Key, dict[Shape, int]] = {}
    counts = {}
    for name, layer in layers.items():
        key = (layer.heads, layer.groups, *kind_of(layer.module))
        if key not in counted:
            counted[key] = _layer_parameters(layer)
        counts[name] = counted[key]
    return counts


def _layer_parameters(layer: AttentionLayer) -> dict[Shape, int]:
    module, whole = _without_data(layer.module), Shape(layer.num_heads, layer.num_kv_heads)
    plans = {shape: HeadPlan({"": first_heads(layer.heads, whole, shape)}) for shape in feasible_shapes(whole)}
    return {shape: parameters_of(prune(module, plan)) for shape, plan in plans.items()}


class Flops(NamedTuple):
    """Floating-point operations of the matrix products in a call, and how many of them are attention's own.

    Those are products of tensors that are both computed: fused attention, 4·b·h·q·k·d, and batched products.
    """

    total: int
    attention: int


def count_flops(function: Callable[[], Any]) -> Flops:
    """Floating-point operations of the matrix products in one call, a multiplication and an addition as two.

    Attention counts as 4·b·h·q·k·d, whatever is masked. torch's fused encoder kernels, which no counter looks
    into, are off meanwhile.
    """
    from torch.utils.flop_counter import FlopCounterMode

    operators = [getattr(torch.ops.aten, name) for name in UNCOUNTED if hasattr(torch.ops.aten, name)]
    with (
        torch.no_grad(),
        FlopCounterMode(display=False, custom_mapping=dict.fromkeys(operators, _attention)) as counter,
    ):
        without_fast_path(function)
    counts = counter.get_flop_counts().get("Global", {})
    attention = sum(count for operator, count in counts.items() if any(part in str(operator) for part in ATTENTION))
    return Flops(counter.get_total_flops(), attention)


def without_fast_path(function: Callable[[], Any]) -> Any:
    """Call it while `nn.TransformerEncoder` and `nn.MultiheadAttention` run as what they are made of."""
    with _FAST_PATH.at(False):
        return function()


def fill_flops(counted: Mapping[Shape, int], whole: Shape) -> dict[Shape, int]:
    """FLOPs of every shape, from those of some: with any head left they are affine in heads and groups."""
    some = [shape for shape in counted if shape.heads]
    if not some:
        return dict(counted)
    terms = np.array([(1, *shape) for shape in some], dtype=float)
    factors, *_ = np.linalg.lstsq(terms, np.array([counted[shape] for shape in some], dtype=float))
    filled = {shape: round(float(np.dot((1, *shape), factors))) for shape in feasible_shapes(whole)}
    return filled | dict(counted)


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any) -> int:  # noqa: ARG001
    from torch.utils.flop_counter import sdpa_flop_count

    return int(sdpa_flop_count(query, key, value))


def _without_data(module: nn.Module) -> nn.Module:
    """A copy on the meta device."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    memo |= {id(tensor): nn.Parameter(memo[id(tensor)], tensor.requires_grad) for tensor in module.parameters()}
    return copy.deepcopy(module, memo)
