"""The forward of an attention module that keeps no head: the bias of its output, in the form that callers expect.

It computes no queries, keys or values, but still takes its turn in a key/value cache, since models read their
position from the length of the first layer's.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mha.families.base.emptied import USES
from mha.families.reading.after_output import NOTHING, AfterOutput
from mha.families.reading.attention_weights import Weights
from mha.layer.output_bias import left_of, tied_to
from mha.runtime.generated_classes import Members, making_class

CACHES = ("past_key_values", "past_key_value", "layer_past", "cache", "layer_state")
OTHERS = ("key_value_states", "encoder_hidden_states", "kv")


@dataclass(frozen=True)
class Returned:
    """What a module returns, and what else a call of it does.

    Attributes:
        output: the submodule that projects the heads' context; None where the module returns the context itself.
        length: of the tuple, or list, that is returned; None for a bare value.
        finish: what is done after the output projection.
        weights: where, and when, attention weights are returned.
        as_list: whether a list is returned.
        sequence_first: whether its inputs are (n, b, e) instead of (b, n, e).
        cached: whether it has a slot in a key/value cache that it is given.
    """

    output: str | None
    length: int | None
    finish: AfterOutput = NOTHING
    weights: Weights | None = None
    as_list: bool = False
    sequence_first: bool = False
    cached: bool = True

    @property
    def uses(self) -> frozenset[str]:
        """The children that are needed for it."""
        names = ((self.output or "").partition(".")[0], left_of(self.output or ""), self.finish.norm)
        return frozenset(name for name in names if name)


@making_class
def without_heads(kind: Any, returned: Returned) -> tuple[str, Members]:
    """A subclass that returns as many values as `kind` does, the first from no heads, the others None."""
    signature = inspect.signature(kind.forward)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        given = {**given, **given.get("kwargs", {})}
        hidden = next(value for value in given.values() if isinstance(value, Tensor))
        first = returned.sequence_first
        keys = advance_cache(self, given, hidden, sequence_first=first) if returned.cached else hidden.shape[1]
        hidden = _at_queries(self, hidden, given)
        if returned.output is None:
            result = tied_to(hidden[..., :0], given)
        else:
            output = self.get_submodule(left_of(returned.output))
            result = returned.finish(self, tied_to(output(hidden), given), given)
        if returned.length is None:
            return result
        results = [result, *[None] * (returned.length - 1)]
        if returned.weights is not None:
            returned.weights.put(results, self, given, hidden.transpose(0, 1) if first else hidden, keys)
        return results if returned.as_list else tuple(results)

    return "WithoutHeads", {"forward": forward, USES: returned.uses}


def _at_queries(module: nn.Module, hidden: Tensor, given: Mapping[str, Any]) -> Tensor:
    """So many of the inputs as there are outputs.

    One query for all may be given beside the keys of several examples, (1, q, e); and some modules pool their queries
    by a stride (Hiera, 2023, section 4): (b, q, e) over a number of tokens, (b, height, width, e) over two sides.
    """
    other = next((given[name] for name in OTHERS if given.get(name) is not None), None)
    if other is not None and hidden.dim() == 3 and len(hidden) == 1:
        hidden = hidden.expand(len(other), -1, -1)
    stride = vars(module).get("query_stride")
    if not stride:
        return hidden
    if hidden.dim() == 3:
        return hidden[:, : hidden.shape[1] // stride]
    return hidden[:, : hidden.shape[1] // stride[0], : hidden.shape[2] // stride[1]]


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
