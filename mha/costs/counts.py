"""Parameters and floating-point operations: counted on what pruning really yields, never from a formula per family."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mha.costs.alike import Key, cost_key
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
# What stands in the names of operators that multiply two computed tensors
ATTENTION = ("dot_product", "bmm", "_attention_forward", "flex_attention", "_varlen_attn")

VARLEN = "_varlen_attn"  # torch's FlashAttention over packed sequences, which hides its kernel from the counter

_FAST_PATH = Setting(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled)


def parameters_of(module: nn.Module) -> int:
    """How many numbers the module's parameters hold; one that is used in several places counts once.

    Example:
        >>> mha.costs.parameters_of(nn.Linear(3, 5))
        20
    """
    return sum(parameter.numel() for parameter in module.parameters())


def count_parameters(layers: AttentionMap) -> dict[str, dict[Shape, int]]:
    """How many parameters each layer has in every shape that it can be pruned to: layer name -> shape -> parameters.

    Takes no memory and reads no weights.

    Example:
        >>> layers = mha.find_attention(mha.MultiHeadAttention.square(8, num_heads=2))
        >>> mha.costs.count_parameters(layers)[""]
        {Shape(heads=0, groups=0): 0, Shape(heads=1, groups=1): 128, Shape(heads=2, groups=2): 256}
    """
    counted: dict[Key, dict[Shape, int]] = {}
    counts = {}
    for name, layer in layers.items():
        key = (layer.heads, layer.groups, *cost_key(layer.module))
        if key not in counted:
            counted[key] = _layer_parameters(layer)
        counts[name] = counted[key]
    return counts


def _layer_parameters(layer: AttentionLayer) -> dict[Shape, int]:
    """Shape -> how many parameters the layer has in it, counted on a copy without data that is pruned to that shape."""
    module, whole = _without_data(layer.module), Shape(layer.num_heads, layer.num_kv_heads)
    plans = {shape: HeadPlan({"": first_heads(layer.heads, whole, shape)}) for shape in feasible_shapes(whole)}
    return {shape: parameters_of(prune(module, plan)) for shape, plan in plans.items()}


def counting_together(layers: Sequence[AttentionLayer]) -> Callable[[Mapping[str, Sequence[int]]], int]:
    """A function from layer name -> heads that stay to how many parameters all these layers then have together.

    A layer that is not named stays whole. A parameter that layers share counts once; counted one layer at a time, it
    would count for each of them.
    """
    bare = _without_data(nn.ModuleList(layer.module for layer in layers))

    def count(keep: Mapping[str, Sequence[int]]) -> int:
        named = {str(place): keep[layer.name] for place, layer in enumerate(layers) if layer.name in keep}
        return parameters_of(prune(bare, HeadPlan(named)))

    return count


class Flops(NamedTuple):
    """Floating-point operations of the matrix products in a call, and how many of them are attention's own.

    Attention's own are products of tensors that are both computed: fused attention, 4·b·h·q·k·d, and batched products.

    Example:
        >>> mha.costs.Flops(total=4800, attention=960).attention
        960
    """

    total: int
    attention: int


def count_flops(function: Callable[[], Any]) -> Flops:
    """Floating-point operations of the matrix products in one call, a multiplication and an addition as two.

    Attention counts as 4·b·h·q·k·d, whatever is masked. torch's fused encoder kernels, which no counter looks
    into, are off meanwhile.

    Example:
        >>> model, x = mha.MultiHeadAttention.square(8, num_heads=2), torch.randn(3, 5, 8)
        >>> mha.costs.count_flops(lambda: model(x, x, x))
        Flops(total=10080, attention=2400)
    """
    from torch.utils.flop_counter import FlopCounterMode

    operators = [getattr(torch.ops.aten, name) for name in UNCOUNTED if hasattr(torch.ops.aten, name)]
    formulas: dict[Any, Any] = dict.fromkeys(operators, _attention_flops)
    if hasattr(torch.ops.torch_attn, VARLEN):  # as soon as it has been imported, before anything calls it
        formulas[getattr(torch.ops.torch_attn, VARLEN)] = _varlen_flops
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        without_fast_path(function)
    counts = counter.get_flop_counts().get("Global", {})
    attention = sum(count for operator, count in counts.items() if any(name in str(operator) for name in ATTENTION))
    return Flops(counter.get_total_flops(), attention)


def without_fast_path(function: Callable[[], Any]) -> Any:
    """Call the function while torch's fused encoder and attention kernels are off, and return what it returns.

    `torch.nn` encoder and attention layers then run as the modules they are made of.
    """
    with _FAST_PATH.at(False):
        return function()


def fill_flops(counted: Mapping[Shape, int], whole: Shape) -> dict[Shape, int]:
    """Shape -> FLOPs, for every shape that a layer of shape `whole` can be pruned to.

    What was counted stays. Other shapes get the value of the affine function of heads and groups that is nearest to the
    counts, by least squares, of shapes with any head.
    """
    shapes = [shape for shape in counted if shape.heads]
    if not shapes:
        return dict(counted)
    terms = np.array([(1, *shape) for shape in shapes], dtype=float)
    factors, *_ = np.linalg.lstsq(terms, np.array([counted[shape] for shape in shapes], dtype=float))
    filled = {shape: round(float(np.dot((1, *shape), factors))) for shape in feasible_shapes(whole)}
    return filled | dict(counted)


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """The FLOPs of one call of fused attention from its arguments' shapes, in the form that torch's counter calls."""
    from torch.utils.flop_counter import sdpa_flop_count

    return int(sdpa_flop_count(query, key, value))


def _varlen_flops(*arguments: Any, **_named: Any) -> int:
    """The FLOPs of one call of attention over packed sequences: the sum of 4·h·q·k·d over the sequences.

    Args:
        arguments: q (all queries, h, d), k, v, where each sequence's queries begin, and where its keys do; more follow.
    """
    query, _key, value, starts_q, starts_k, *_others = arguments
    each = zip(starts_q.diff().tolist(), starts_k.diff().tolist(), strict=True)
    widths = query.shape[-1] + value.shape[-1]
    return sum(2 * query.shape[1] * queries * keys * widths for queries, keys in each)


_varlen_flops._get_raw = True  # type: ignore[attr-defined]  # as torch marks formulas that get tensors, not shapes


def _without_data(module: nn.Module) -> nn.Module:
    """A copy of the module on the meta device, where tensors have shapes but no data."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    memo |= {id(tensor): nn.Parameter(memo[id(tensor)], tensor.requires_grad) for tensor in module.parameters()}
    return copy.deepcopy(module, memo)
