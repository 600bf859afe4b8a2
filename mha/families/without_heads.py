"""What is left of an attention module that keeps no head: the bias of its output.

It computes no queries, keys or values, but still takes its turn in a key/value cache, since models read their
position from the length of the first layer's.
"""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mha.families.after_output import NOTHING, AfterOutput
from mha.families.source import WHOLE
from mha.families.weights import Weights

CACHES = ("past_key_values", "past_key_value", "layer_past", "cache", "layer_state")
OTHERS = ("key_value_states", "encoder_hidden_states", "kv")


@functools.cache
def without_heads(
    kind: Any,
    output: str | None,
    returned: int | None,
    finish: AfterOutput = NOTHING,
    *,
    weights: Weights | None = None,
    as_list: bool = False,
    cached: bool = True,
    sequence_first: bool = False,
) -> type[nn.Module]:
    """A subclass that returns as many values as `kind` does, the first from no heads, the others None.

    Args:
        output: the submodule that projects the heads' context; None where `kind` returns the context itself.
        returned: the length of the tuple, or list, that `kind` returns; None for a bare value.
        finish: what `kind` does after its output projection.
        weights: where, and when, it returns attention weights.
        sequence_first: whether its inputs are (n, b, e) instead of (b, n, e).
        cached: whether it has a slot in a key/value cache that it is given.
    """
    signature = inspect.signature(kind.forward)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        given = {**given, **given.get("kwargs", {})}
        hidden = next(value for value in given.values() if isinstance(value, Tensor))
        keys = advance_cache(self, given, hidden, sequence_first=sequence_first) if cached else hidden.shape[1]
        result = hidden.new_zeros(*hidden.shape[:-1], 0)
        if output is not None:
            result = finish(self, bias_everywhere(self.get_submodule(output), result), given)
        if returned is None:
            return result
        results = [result, *[None] * (returned - 1)]
        if weights is not None:
            weights.put(results, self, given, hidden.transpose(0, 1) if sequence_first else hidden, keys)
        return results if as_list else tuple(results)

    return type(
        f"{kind.__name__}WithoutHeads", (kind,), {"forward": forward, "__module__": kind.__module__, WHOLE: kind}
    )


def bias_everywhere(linear: nn.Module, context: Tensor) -> Tensor:
    """The linear over no features, (…, 0) to (…, out): its bias, or zeros."""
    bias = linear._parameters.get("bias")
    if bias is None:
        return context.sum(dim=-1, keepdim=True).expand(*context.shape[:-1], _out_features(linear)).clone()
    return bias.expand(*context.shape[:-1], -1).clone()


def _out_features(linear: Any) -> int:
    return int(linear.nf if hasattr(linear, "nf") else linear.out_features)


def advance_cache(module: nn.Module, given: Mapping[str, Any], hidden: Tensor, *, sequence_first: bool = False) -> int:
    """Put one number per token into the layer's slot of the cache, where there is one: a slot of none would count as
    empty.

    Args:
        given: the arguments of the layer's forward, by name.
        hidden: its queries, (b, q, e).
        sequence_first: whether they are (q, b, e), and what is given alike.

    Returns:
        How many keys a layer with heads would see.
    """
    cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
    other = next((given[name] for name in OTHERS if given.get(name) is not None), None)
    if vars(module).get("encoder_decoder_attention"):
        other = given["key"]
    tokens = hidden if other is None else other
    tokens = tokens.transpose(0, 1) if sequence_first else tokens
    if cache is None:
        return tokens.shape[1]
    index = next(
        numbers[name] for numbers in (given, vars(module)) for name in ("layer_idx", "layer_id") if name in numbers
    )
    both = hasattr(cache, "self_attention_cache")
    if other is not None and both and cache.is_updated.get(index):
        return int(cache.cross_attention_cache.layers[index].keys.shape[-2])
    index += given.get("cycle_offset", 0)
    slots = (cache.self_attention_cache if other is None else cache.cross_attention_cache) if both else cache
    ones = tokens.new_zeros(tokens.shape[0], 1, tokens.shape[1], 1)
    keys, _ = slots.update(ones, ones, index)
    if other is not None and both:
        cache.is_updated[index] = True
    return int(keys.shape[-2])
