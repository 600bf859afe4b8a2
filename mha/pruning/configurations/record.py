"""What was pruned, written into a model's configuration: a plain field that every way to save it carries along."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from mha.families import AttentionLayer
from mha.values.plan import lineage_of

RECORD = "mha_pruned"
VERSION = 1
Fields = dict[str, Any]  # field of a configuration -> its value; None for none
Dense = dict[str, Fields]  # part of the configuration -> what it said before pruning


def record_of(layers: Mapping[str, AttentionLayer], dense: Dense) -> dict[str, Any]:
    """The record of a pruned model: its plan, what its layers were made with, and what its configuration said then."""
    pruned = {name: layer for name, layer in layers.items() if lineage_of(layer.module) is not None}
    return {
        "version": VERSION,
        "plan": {name: list(layer.heads) for name, layer in pruned.items()},
        "attention": {
            name: {"heads": layer.lineage.total_heads, "groups": layer.lineage.total_groups}
            for name, layer in layers.items()
        },
        "dense": dense,
    }


def unpruned(config: Any, layers: Mapping[str, AttentionLayer]) -> Any:
    """A copy of the configuration as it was before pruning, without a record.

    A record of which the layers know nothing is an ancestor's: the model was loaded from what a pruned one was saved
    as, and is whole.
    """
    record: Any = getattr(config, RECORD, None)
    is_own = record is not None and all(
        name in layers
        and lineage_of(layers[name].module) is not None
        and layers[name].lineage.total_heads == record["attention"][name]["heads"]
        for name in record["plan"]
    )
    return unpruned_by(record["dense"] if record and is_own else {}, config)


def unpruned_by(dense: Dense, config: Any) -> Any:
    """A copy of the configuration in which these fields are what they were, without a record."""
    before = copy.deepcopy(config)
    vars(before).pop(RECORD, None)
    parts = dict(parts_of(before))
    for path, fields in dense.items():
        put_back(parts[path], fields)
    return before


def parts_of(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The configuration, under "", and those inside it, by dotted names."""
    yield path, config
    for name in getattr(type(config), "sub_configs", ()):
        if (part := vars(config).get(name)) is not None:
            yield from parts_of(part, f"{path}.{name}".removeprefix("."))


def put_back(config: Any, fields: Fields) -> None:
    """Give the fields these values again; one that was not there leaves."""
    for name, value in fields.items():
        if value is None and not hasattr(type(config), name):
            vars(config).pop(name, None)
        else:
            setattr(config, name, value)
