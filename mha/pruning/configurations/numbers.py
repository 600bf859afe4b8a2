"""Renumbers the heads that configurations name: those from which Whisper reads the times of words."""

import copy
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mha.families import AttentionLayer
from mha.values.errors import LostHeadsWarning
from mha.values.plan import Lineage, lineage_of

ALIGNMENT = "alignment_heads"  # [layer of the decoder, head of its cross-attention], …
CROSS = re.compile(r"(?:.*\.)?layers\.(\d+)\.encoder_attn")


def renumber(model: nn.Module, layers: Mapping[str, AttentionLayer], before: Mapping[str, Lineage | None]) -> None:
    """Let generation configurations name the same heads in `alignment_heads` as before pruning, by their positions now.

    Heads that were pruned leave the list. Where none is left the list is removed, with a `LostHeadsWarning`, and
    transformers refuses to tell the times of words. A configuration is replaced by a copy, since other models may hold
    the same one.

    Args:
        model: the pruned model; generation configurations of its submodules are renumbered too.
        layers: its attention layers by name, as they are now.
        before: layer that has just been pruned -> its lineage before; None where it was whole.
    """

    def now(name: str, head: int) -> int | None:
        if name not in before:
            return head
        original, left = _original(before[name], head), layers[name].heads
        return left.index(original) if original in left else None

    for prefix, module in _generating(model):
        if named := getattr(module.generation_config, ALIGNMENT, None):
            module.generation_config = copy.deepcopy(module.generation_config)
            _set_heads(module.generation_config, _mapped(named, _cross_attention(layers, prefix), now))


def by_original_numbers(model: nn.Module) -> Any:
    """A copy of a pruned model's generation configuration that names heads by original numbers, not by positions."""

    def original(name: str, head: int) -> int:
        return _original(lineage_of(model.get_submodule(name)), head)

    config: Any = copy.deepcopy(model.generation_config)
    if named := getattr(config, ALIGNMENT, None):
        _set_heads(config, _mapped(named, _cross_attention(dict(model.named_modules()), ""), original))
    return config


def _original(lineage: Lineage | None, head: int) -> int:
    """The original number of the head at position `head` of a layer; its position where the layer is whole.

    A number beyond the layer's heads is returned as it is.

    Args:
        lineage: that of the layer; None where it is whole.
    """
    return head if lineage is None or head >= len(lineage.heads) else lineage.heads[head]


def _generating(model: nn.Module) -> list[tuple[str, Any]]:
    """(prefix, module) of each module that holds a generation configuration.

    The prefix is what the names of its submodules begin with in the model: "" or the module's name and a dot.
    """
    return [
        (f"{name}." if name else "", module)
        for name, module in model.named_modules()
        if vars(module).get("generation_config") is not None
    ]


def _cross_attention(names: Mapping[str, Any], prefix: str) -> dict[int, str]:
    """Index of a decoder's layer -> the name of its cross-attention, among those `names` that begin with `prefix`."""
    matches = {name: CROSS.fullmatch(name) for name in names if name.startswith(prefix)}
    return {int(match[1]): name for name, match in matches.items() if match}


def _mapped(
    named: list[list[int]], cross: Mapping[int, str], number: Callable[[str, int], int | None]
) -> list[list[int]]:
    """The list of [layer, head] with other numbers of the heads, without pairs whose head `number` gives None for.

    Args:
        named: pairs of the index of a decoder's layer and the number of a head of its cross-attention.
        cross: index of a layer -> the name of its cross-attention; heads of a layer that is not here stay.
        number: (name of a cross-attention, number of a head) -> its other number, or None.
    """
    heads = [(layer, number(cross[layer], head) if layer in cross else head) for layer, head in named]
    return [[layer, head] for layer, head in heads if head is not None]


def _set_heads(config: Any, heads: list[list[int]]) -> None:
    """Set a generation configuration's `alignment_heads`; remove it, with a `LostHeadsWarning`, where none is left."""
    if heads:
        setattr(config, ALIGNMENT, heads)
        return
    delattr(config, ALIGNMENT)
    warnings.warn(
        f"every head that generation_config.{ALIGNMENT} named has been pruned: the model can no longer tell the times "
        "of words (return_token_timestamps), and generate refuses to; keep some of these heads if you need them",
        LostHeadsWarning,
        stacklevel=2,
    )
