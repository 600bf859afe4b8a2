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
    """The record of a pruned model, as plain values for JSON, that goes into its configuration as `mha_pruned`.

    Args:
        layers: the model's attention layers, by name.
        dense: dotted name of a configuration inside the model's, "" for itself -> field -> its value before pruning.

    Returns:
        {"version": …, "plan": layer -> original heads that it has, for layers that plans have named,
        "attention": layer -> {"heads": …, "groups": …} that it was made with, "dense": `dense`}.
    """
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
    """A copy of the configuration of a model with these attention layers, as it was before pruning, without a record.

    A record that does not fit the layers' lineages is another model's: this one is whole, and was loaded from the
    files of a pruned model. Such a record is dropped, and all fields stay.
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
    """A copy of the configuration without a record, and with the values that `dense` has for its fields.

    Args:
        dense: dotted name of a configuration inside `config`, "" for itself -> field -> value, set as by `put_back`.
    """
    before = copy.deepcopy(config)
    vars(before).pop(RECORD, None)
    parts = dict(parts_of(before))
    for path, fields in dense.items():
        put_back(parts[path], fields)
    return before


def parts_of(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, configuration) for the configuration, named `path`, and for those inside it ("text_config").

    Only those inside are found that its class names in `sub_configs`.
    """
    yield path, config
    for name in getattr(type(config), "sub_configs", ()):
        if (part := vars(config).get(name)) is not None:
            yield from parts_of(part, f"{path}.{name}".removeprefix("."))


def put_back(config: Any, fields: Fields) -> None:
    """Give the fields these values again; remove one whose value is None, unless its class defines it."""
    for name, value in fields.items():
        if value is None and not hasattr(type(config), name):
            vars(config).pop(name, None)
        else:
            setattr(config, name, value)
