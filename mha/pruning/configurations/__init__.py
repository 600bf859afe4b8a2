"""What the configurations of transformers' models say about heads, kept true of the heads that are left.

A configuration is told the counts where it can state them (`counts`), what names heads by number is renumbered
(`numbers`), and the plan is written down in it (`record`), so that whatever saves the configuration saves the plan too.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from mha.families import find_attention
from mha.families.base.config_view import ConfigView
from mha.pruning.configurations.counts import state_counts
from mha.pruning.configurations.numbers import by_original_numbers, renumber
from mha.pruning.configurations.record import RECORD, parts_of, record_of, unpruned, unpruned_by
from mha.values.plan import Lineage

__all__ = ["RECORD", "by_original_numbers", "pretrained_in", "record_of", "restate", "unpruned", "unpruned_by"]


def restate(model: nn.Module, before: Mapping[str, Lineage | None]) -> None:
    """Make the configurations of a pruned model, and of models inside it, say which heads are left.

    Configurations are replaced by copies, since other models may hold the same ones.

    Args:
        before: layer that has just been pruned -> its lineage before; None where it was whole.
    """
    for prefix, inner in pretrained_in(model):
        inside = {name.removeprefix(prefix): lineage for name, lineage in before.items() if name.startswith(prefix)}
        if not inside:
            continue
        layers = find_attention(inner)
        renumber(inner, layers, inside)
        config = unpruned(inner.config, layers)
        _replace(inner, inner.config, config)
        dense = state_counts(inner, config, layers)
        setattr(config, RECORD, record_of(layers, dense))


def pretrained_in(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the outermost transformers models in a model, each as (prefix, model).

    The prefix is what the names of its submodules begin with in the whole, "encoder."; "" for the whole itself. There
    are none where transformers has not been imported.
    """
    transformers: Any = sys.modules.get("transformers")
    outer: list[str] = []
    for name, module in model.named_modules() if transformers is not None else ():
        prefix = f"{name}." if name else ""
        if isinstance(module, transformers.PreTrainedModel) and not prefix.startswith(tuple(outer)):
            outer.append(prefix)
            yield prefix, module


def _replace(model: nn.Module, old: Any, new: Any) -> None:
    """Let every submodule that holds the configuration `old` hold `new` instead, a copy of it.

    A submodule that holds a configuration inside `old` gets the one in the same place of `new`.
    """
    renewed = {id(part): renewal for (_, part), (_, renewal) in zip(parts_of(old), parts_of(new), strict=True)}
    for module in model.modules():
        for name, held in vars(module).items():
            if isinstance(held, ConfigView) and id(held.whole) in renewed:
                vars(module)[name] = held.of(renewed[id(held.whole)])
            elif id(held) in renewed:
                vars(module)[name] = renewed[id(held)]
