"""Attention weights among what a module returns: (b, h, q, k), for the heads that it has."""

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
        place: counted from 0; None stands there if there are no weights.
        eager: only where attention is computed step by step, not by a fused kernel.
        asked: only where `output_attentions` is given.
    """

    place: int
    eager: bool
    asked: bool

    def put(self, results: list[Any], module: nn.Module, given: Mapping[str, Any], hidden: Tensor, keys: int) -> None:
        """Among the results of a layer without heads put weights of no head, where one with heads returns weights.

        Args:
            given: the arguments of forward, by name.
            hidden: queries, (b, q, e), or those of an image, (b, height, width, e).
            keys: how many keys it sees, unless it is given keys of their own.
        """
        implementation = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if (self.asked and not given.get("output_attentions")) or (
            self.eager and implementation not in (None, "eager")
        ):
            return
        results += [None] * (self.place + 1 - len(results))
        keys = next((given[name].shape[1] for name in ("keys", "key") if isinstance(given.get(name), Tensor)), keys)
        queries = hidden.shape[1:-1].numel()
        results[self.place] = hidden.new_zeros(len(hidden), 0, queries, keys if hidden.dim() == 3 else queries)


def weights_of(module: nn.Module) -> Weights | None:
    """What the module's code says; None where it returns no weights."""
    code = text(module)
    if (place := _place(code)) is None:
        return None
    eager = "get_interface(" in code
    return Weights(
        place, eager, not eager and "output_attentions" in inspect.signature(whole(module).forward).parameters
    )


@functools.cache
def _place(code: str) -> int | None:
    forward = next((node for node in ast.parse(code).body if getattr(node, "name", "") == "forward"), None)
    places = {place for node in ast.walk(forward) for place in _places(node)} if forward else set()
    return places.pop() if len(places) == 1 else None


def _places(node: ast.AST) -> list[int]:
    """The place of the weights in a tuple that is put together here: (output, attn_weights)."""
    if not isinstance(node, ast.Tuple | ast.List) or not isinstance(node.ctx, ast.Load):
        return []
    named = [part.id if isinstance(part, ast.Name) else "" for part in node.elts]
    return [place for place, name in enumerate(named) if place and NAMES.fullmatch(name)]
