"""What was removed from a model, when and by what: the file `history.json` beside a pruned model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from mha.families import find_attention

HISTORY = "history.json"


Removed = dict[str, list[int]]


class Heads(NamedTuple):
    """How many heads a model has, and had when it was made."""

    present: int
    made: int


def heads_of(model: nn.Module) -> Heads:
    """How many heads the model has, and how many it was made with."""
    layers = find_attention(model).values()
    return Heads(sum(layer.num_heads for layer in layers), sum(layer.lineage.total_heads for layer in layers))


def history_in(folder: Path | None) -> list[dict[str, Any]]:
    """The entries of the folder's `history.json`, one for each time that it was pruned; none where it is not there.

    A file that can't be read is passed over: nothing depends on it.
    """
    if folder is None:
        return []
    try:
        entries = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [dict(entry) for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def write_history(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the entries to the folder's `history.json`."""
    (folder / HISTORY).write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def removed_between(dense: nn.Module, small: nn.Module) -> Removed:
    """The heads that the smaller of two models has lost, by layer and original number; layers that lost none are left
    out."""
    left = find_attention(small)
    lost = {name: sorted(set(layer.heads) - set(left[name].heads)) for name, layer in find_attention(dense).items()}
    return {name: heads for name, heads in lost.items() if heads}


def told(heads: Heads, entries: Sequence[Mapping[str, Any]]) -> str:
    """What was removed before, in a sentence; empty for a model that has all of its heads.

    What the entries leave open was removed by something that writes none, as `mha.prune`. Entries of more heads than
    are gone are those of another model, and are not told.
    """
    gone = heads.made - heads.present
    if not gone:
        return ""
    times = [f"{entry.get('removed')} on {entry.get('date')} ({entry.get('how')})" for entry in entries]
    known = sum(entry["removed"] for entry in entries if isinstance(entry.get("removed"), int))
    if not times or known > gone:
        return f"Removed before: {gone} of {heads.made} heads."
    rest = f", and {gone - known} otherwise" if known < gone else ""
    return f"Removed before: {gone} of {heads.made} heads: {', then '.join(times)}{rest}."
