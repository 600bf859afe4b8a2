"""The forward of an attention module that keeps no head: the bias of its output, in the form that callers expect.

It computes no queries, keys or values, but still advances its slot of a key/value cache: models read the number of
tokens so far from the length of the first layer's slot.
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

# Arguments of forwards: what is a key/value cache, and what keys and values are made of in cross-attention
CACHES = ("past_key_values", "past_key_value", "layer_past", "cache", "layer_state")
MEMORIES = ("key_value_states", "encoder_hidden_states", "kv")


@dataclass(frozen=True)
class Returned:
    """What a module returns, and what else a call of it does.

    Attributes:
        output: the name of the output projection; None where the module returns the context itself.
        length: how many values are returned, in a tuple or a list; None for a bare value.
        finish: what is done after the output projection.
        weights: where, and when, attention weights are returned; None for never.
        as_list: whether a list is returned.
        sequence_first: whether its inputs are (n, b, e) instead of (b, n, e).
        cached: whether it writes its keys and values into a key/value cache where it is given one.
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
        """The names of those children of the module that are still needed to compute what it returns."""
        names = ((self.output or "").partition(".")[0], left_of(self.output or ""), self.finish.norm)
        return frozenset(name for name in names if name)


@making_class
def without_heads(kind: Any, returned: Returned) -> tuple[str, Members]:
    """A subclass of `kind` for a layer without heads, with a forward of the same signature and number of values.

    These are the output (the projection's bias for each query, and what `returned.finish` adds), attention weights of
    no head where `kind` returns weights, and None for the rest. It still advances its slot of a cache. `making_class`
    makes the subclass of what is returned here, the end of its name and its members.

    Args:
        kind: the class of a module that computes attention.
        returned: what its forward returns.
    """
    signature = inspect.signature(kind.forward)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(self, *args, **kwargs).arguments
        arguments = {**arguments, **arguments.get("kwargs", {})}
        hidden = next(value for value in arguments.values() if isinstance(value, Tensor))
        first = returned.sequence_first
        keys = advance_cache(self, arguments, hidden, sequence_first=first) if returned.cached else hidden.shape[1]
        hidden = _at_queries(self, hidden, arguments)
        if returned.output is None:
            result = tied_to(hidden[..., :0], arguments)
        else:
            output = self.get_submodule(left_of(returned.output))
            result = returned.finish(self, tied_to(output(hidden), arguments), arguments)
        if returned.length is None:
            return result
        results = [result, *[None] * (returned.length - 1)]
        if returned.weights is not None:
            returned.weights.put(results, self, arguments, hidden.transpose(0, 1) if first else hidden, keys)
        return results if returned.as_list else tuple(results)

    return "WithoutHeads", {"forward": forward, USES: returned.uses}


def _at_queries(module: nn.Module, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """The inputs, (b, q, …), repeated or cut to be as many as the outputs that the module returns.

    Queries may be the same for all examples, (1, q, e), beside keys of each example. And some modules pool their
    queries by a stride (Hiera, 2023, section 4): (b, q, e) over a number of tokens, (b, height, width, e) over height
    and width of an image.

    Args:
        module: the layer; its `query_stride`, if it has one, is read.
        arguments: those of the layer's forward, by name.
    """
    memory = _memory(arguments)
    if memory is not None and hidden.dim() == 3 and hidden.shape[0] == 1:  # no len(), which binds a traced size
        hidden = hidden.expand(memory.shape[0], -1, -1)
    stride = vars(module).get("query_stride")
    if not stride:
        return hidden
    if hidden.dim() == 3:
        return hidden[:, : hidden.shape[1] // stride]
    return hidden[:, : hidden.shape[1] // stride[0], : hidden.shape[2] // stride[1]]


def advance_cache(
    module: nn.Module, arguments: Mapping[str, Any], hidden: Tensor, *, sequence_first: bool = False
) -> int:
    """Put keys and values of one head of width 1, zeros, into the layer's slot of the key/value cache, if any.

    A slot that holds no numbers would be taken for empty. Cross-attention whose keys have been cached by an earlier
    call adds nothing.

    Args:
        module: the layer, whose arguments or attributes give the number of its slot.
        arguments: those of the layer's forward, by name; the cache is among them, if there is one.
        hidden: the input that queries would be made of, (b, q, e).
        sequence_first: whether that is (q, b, e), and the input of keys and values (k, b, e).

    Returns:
        How many keys a layer with heads would see, with those of earlier calls in the cache.
    """
    cache = next((arguments[name] for name in CACHES if arguments.get(name) is not None), None)
    memory = arguments["key"] if vars(module).get("encoder_decoder_attention") else _memory(arguments)
    tokens = hidden if memory is None else memory
    tokens = tokens.transpose(0, 1) if sequence_first else tokens
    if cache is None:
        return tokens.shape[1]
    index = next(
        numbers[name] for numbers in (arguments, vars(module)) for name in ("layer_idx", "layer_id") if name in numbers
    )
    both = hasattr(cache, "self_attention_cache")  # one cache for self- and one for cross-attention
    if memory is not None and both and cache.is_updated.get(index):
        return cache.cross_attention_cache.layers[index].keys.shape[-2]
    index += arguments.get("cycle_offset", 0)
    slots = (cache.self_attention_cache if memory is None else cache.cross_attention_cache) if both else cache
    new_keys, new_values = (tokens.new_zeros(tokens.shape[0], 1, tokens.shape[1], 1) for _ in range(2))
    keys, _ = slots.update(new_keys, new_values, index)
    if memory is not None and both:
        cache.is_updated[index] = True
    return keys.shape[-2]


def _memory(arguments: Mapping[str, Any]) -> Any:
    """The argument that keys and values are made of, where it is not the queries', as in cross-attention; else None."""
    return next((arguments[name] for name in MEMORIES if arguments.get(name) is not None), None)
