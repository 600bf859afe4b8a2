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
    """Let generation configurations name the heads that they named before, by the numbers that these have now.

    Heads that were pruned leave the list. Where none is left there is no list, and transformers refuses to tell the
    times of words. A configuration is replaced by a copy, since other models may hold the same one.

    Args:
        before: the lineage of layers before they were pruned now; None where they were whole.
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
    """A copy of a model's generation configuration that names heads by their original numbers."""

    def original(name: str, head: int) -> int:
        return _original(lineage_of(model.get_submodule(name)), head)

    config: Any = copy.deepcopy(model.generation_config)
    if named := getattr(config, ALIGNMENT, None):
        _set_heads(config, _mapped(named, _cross_attention(dict(model.named_modules()), ""), original))
    return config


def _original(lineage: Lineage | None, head: int) -> int:
    """The original number of the head at this position; a number that names no head is returned as it is."""
    return head if lineage is None or head >= len(lineage.heads) else lineage.heads[head]


def _generating(model: nn.Module) -> list[tuple[str, Any]]:
    """The modules that hold a generation configuration, each after the prefix of its submodules' names."""
    return [
        (f"{name}." if name else "", module)
        for name, module in model.named_modules()
        if vars(module).get("generation_config") is not None
    ]


def _cross_attention(names: Mapping[str, Any], prefix: str) -> dict[int, str]:
    """Number of a decoder's layer -> the name of its cross-attention, among the names that begin with the prefix."""
    matches = {name: CROSS.fullmatch(name) for name in names if name.startswith(prefix)}
    return {int(match[1]): name for name, match in matches.items() if match}


def _mapped(
    named: list[list[int]], cross: Mapping[int, str], number: Callable[[str, int], int | None]
) -> list[list[int]]:
    """The list of [layer, head] with other numbers of the heads, without those that have none.

    Args:
        cross: number of a layer -> the name of its cross-attention.
        number: (name of a cross-attention, number of a head) -> its other number.
    """
    heads = [(layer, number(cross[layer], head) if layer in cross else head) for layer, head in named]
    return [[layer, head] for layer, head in heads if head is not None]


def _set_heads(config: Any, heads: list[list[int]]) -> None:
    """Let a generation configuration name these heads; with a warning where none is left."""
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
