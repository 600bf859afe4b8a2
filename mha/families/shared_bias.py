"""T5 and its kin: attention to which a position bias is added that one layer makes for all that follow.

The bias is made, and handed from layer to layer, for all original heads; each layer takes the part of the heads that it
still has. So layers may keep different heads, and the table that the bias comes from stays whole.
"""

import inspect
from typing import Any, cast

from torch import Tensor, nn

from mha.families.base.description import Family
from mha.families.base.emptied import USES
from mha.families.base.find import register_convention
from mha.families.base.gathering import of_heads
from mha.families.reading.attention_weights import Weights
from mha.families.reading.explain import Projections, describe, head_width, is_from_transformers
from mha.families.reading.source import UnclearError, reading
from mha.families.reading.without_heads import advance_cache
from mha.layer.output_bias import left_of, tied_to
from mha.runtime.generated_classes import Members, making_class, whole
from mha.values.plan import lineage_of

PROJECTIONS = (("q", "k", "v", "o"), ("query", "key", "value", "output"))
TABLE = "relative_attention_bias"
WEIGHTS = Weights(place=2, eager=True, asked=False)


@register_convention
def shared_bias(module: nn.Module) -> Family | str | None:
    """Describe a module of transformers that makes a position bias, or is handed one, as T5's do.

    Returns:
        The description; the reason why such a module is refused, as where its forward returns something other than
        output, bias and weights; None for any other module.
    """
    kind = whole(module)
    if not is_from_transformers(module) or not hasattr(kind, "compute_bias"):
        return None
    children = dict(module.named_children())
    names = next((names for names in PROJECTIONS if all(name in children for name in names)), None)
    if names is None or "position_bias" not in inspect.signature(kind.forward).parameters:
        return None
    try:
        projections, code = _projections(module, names), reading(module)
        if code is None or code.returned != 3:
            raise UnclearError(f"{kind.__name__} does not return its output, the bias and the weights")
        empty = empty_with_shared_bias(kind, names[3])
        return describe(module, projections, replacement=with_shared_bias(kind), empty=empty)
    except UnclearError as reason:
        return str(reason)


def _projections(module: nn.Module, names: tuple[str, ...]) -> Projections:
    """The projections that the module has, as `describe` takes them.

    Args:
        names: those of the linears of queries, keys, values and output.

    Raises:
        UnclearError: their widths fit no number of heads.
    """
    query, key, value, output = names
    d, rows = head_width(module), int(cast(Any, module).get_submodule(query).out_features)
    if not d or rows % d:
        raise UnclearError(f"queries of width {rows} are not heads of width {d}")
    sizes = {"h": rows // d, "g": 1, "d": d, "e": d}
    axes = {query: ("(h g d)",), key: ("(h d)",), value: ("(h d)",)}
    inputs = frozenset({"position_bias"})
    return Projections(f"{query} … {output} + shared bias", "", axes, output, sizes, (TABLE,), inputs)


@making_class
def with_shared_bias(kind: Any) -> tuple[str, Members]:
    """A subclass for any number of heads; it takes and returns the position bias of all original ones, (1, h, q, k).

    The first dimension may also be that of the batch. Added to the scores is the part of the heads still here.
    """
    signature = inspect.signature(kind.forward)

    def compute_bias(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        self.whole_bias = kind.compute_bias(self, *args, **kwargs)
        return _of_heads(self, self.whole_bias)

    def forward(self: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        bound = signature.bind(self, *args, **kwargs)
        whole_bias = bound.arguments.get("position_bias")
        if whole_bias is not None:
            bound.arguments["position_bias"] = _of_heads(self, whole_bias)
        output, own_bias, *rest = kind.forward(*bound.args, **bound.kwargs)
        if whole_bias is None:
            whole_bias = self.__dict__.pop("whole_bias", None)
        if whole_bias is None:  # a layer without a table made zeros, for as many heads as it has
            whole_bias = own_bias.new_zeros(1, _total(self), *own_bias.shape[2:])
        return output, whole_bias, *rest

    return "WithSharedBias", {"forward": forward, "compute_bias": compute_bias}


@making_class
def empty_with_shared_bias(kind: Any, output: str) -> tuple[str, Members]:
    """A subclass for no heads, which still makes, or hands on, the position bias of all original ones.

    Args:
        output: the name that the output projection had.
    """
    signature = inspect.signature(kind.forward)

    def forward(self: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        arguments = signature.bind(self, *args, **kwargs).arguments
        hidden, bias = arguments["hidden_states"], arguments.get("position_bias")
        cache = arguments.get("past_key_values")
        seen = cache.get_seq_length(self.layer_idx) if cache is not None else 0
        seen = seen.clone() if isinstance(seen, Tensor) else seen
        key_length = advance_cache(self, {**arguments, **arguments.get("kwargs", {})}, hidden)
        if bias is None and self.has_relative_attention_bias:
            bias = kind.compute_bias(self, hidden.shape[1], key_length, device=hidden.device, past_seen_tokens=seen)
        elif bias is None:
            bias = hidden.new_zeros(1, _total(self), hidden.shape[1], key_length)
        results = [tied_to(self.get_submodule(left_of(output))(hidden), arguments), bias, None]
        WEIGHTS.put(results, self, arguments, hidden, key_length)
        return tuple(results)

    return "WithoutHeads", {"forward": forward, USES: frozenset({left_of(output), TABLE})}


def _of_heads(module: nn.Module, bias: Tensor) -> Tensor:
    """The part of the bias, (b or 1, original heads, q, k), that belongs to the heads still here."""
    return of_heads(module, "position_bias", bias, -3)


def _total(module: Any) -> int:
    """How many heads the module was made with."""
    lineage = lineage_of(module)
    return lineage.total_heads if lineage else int(module.n_heads)
