"""Where attention weights, (b, h, q, k), stand among what a module returns."""

import ast
import functools
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mha.families.reading.source import text
from mha.runtime.generated_classes import whole

NAMES = re.compile(r"(attn|attention)_(weights|probs)(_reshaped)?")


@dataclass(frozen=True)
class Weights:
    """Where the weights stand in the tuple that a module returns, and when they stand there.

    Attributes:
        place: their index in the tuple, from 0; the tuple has None there if it has no weights.
        eager: whether they are returned only where attention is computed step by step, not by a fused kernel.
        asked: whether they are returned only where `output_attentions` is true.
    """

    place: int
    eager: bool
    asked: bool

    def put(
        self, results: list[Any], module: nn.Module, arguments: Mapping[str, Any], hidden: Tensor, keys: int
    ) -> None:
        """Set entry `place` of `results` to attention weights of no head, (b, 0, q, k), if this call returns weights.

        It does not where `asked` and the argument `output_attentions` is not true, nor where `eager` and the module's
        configuration names another implementation of attention than "eager".

        Args:
            results: what a layer without heads returns, the output first; it is changed in place, and filled up with
                None where it ends before `place`.
            arguments: those of forward, by name.
            hidden: queries, (b, q, e), or those of an image, (b, height, width, e), where k = q = height x width.
            keys: k of (b, q, e), unless the arguments hold a tensor of keys, "keys" or "key", (b, k, e).
        """
        implementation = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if (self.asked and not arguments.get("output_attentions")) or (
            self.eager and implementation not in (None, "eager")
        ):
            return
        results += [None] * (self.place + 1 - len(results))
        own_keys = (arguments.get(name) for name in ("keys", "key"))
        keys = next((tensor.shape[1] for tensor in own_keys if isinstance(tensor, Tensor)), keys)
        queries = hidden.shape[1:-1].numel()
        results[self.place] = hidden.new_zeros(hidden.shape[0], 0, queries, keys if hidden.dim() == 3 else queries)


def weights_of(module: nn.Module) -> Weights | None:
    """Where and when the module's `forward` returns attention weights, by its source.

    None where it never does, or does at different indices.
    """
    code = text(module)
    if (place := _place(code)) is None:
        return None
    eager = "get_interface(" in code
    return Weights(
        place, eager, not eager and "output_attentions" in inspect.signature(whole(module).forward).parameters
    )


@functools.cache
def _place(code: str) -> int | None:
    """The index of attention weights in the tuples and lists that `forward` in this source code makes.

    None where `forward` is not there, or makes none with weights, or the weights stand at different indices.
    """
    forward = next((node for node in ast.parse(code).body if getattr(node, "name", "") == "forward"), None)
    places = {place for node in ast.walk(forward) for place in _places(node)} if forward else set()
    return places.pop() if len(places) == 1 else None


def _places(node: ast.AST) -> list[int]:
    """The indices, above 0, of variables with a name of attention weights (`NAMES`) in the tuple or list of the node.

    [1] for `(output, attn_weights)`; [] for a node that makes no tuple or list.
    """
    if not isinstance(node, ast.Tuple | ast.List) or not isinstance(node.ctx, ast.Load):
        return []
    names = [element.id if isinstance(element, ast.Name) else "" for element in node.elts]
    return [place for place, name in enumerate(names) if place and NAMES.fullmatch(name)]
