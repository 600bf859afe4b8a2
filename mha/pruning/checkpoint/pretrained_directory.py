"""A pruned model as transformers itself saves it: `save_pretrained`, a trainer's checkpoint, a download from the hub.

Its configuration carries the record of what was pruned. The weights are read here, from safetensors only, and handed to
transformers with a class whose models prune themselves as they are made: transformers maps names and ties weights as
ever, and looks for no file.
"""

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mha.families import find_attention
from mha.families.base.gathering import SELECTED
from mha.pruning.checkpoint import allowed_classes as allowed
from mha.pruning.checkpoint import recipe as recipes
from mha.pruning.checkpoint.document import FIELDS
from mha.pruning.checkpoint.misfits import SHOWN
from mha.pruning.checkpoint.reading import check_size_of_document, extent, read_tensors
from mha.pruning.configurations import RECORD, unpruned_by
from mha.pruning.configurations.record import VERSION
from mha.pruning.slicing import prune
from mha.runtime.generated_classes import Members, making_class
from mha.runtime.intercept import become
from mha.values.errors import CheckpointError
from mha.values.layout import kept_indices
from mha.values.plan import HeadPlan, core_lineage

CONFIG, GENERATION = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NAME = re.compile(r"\w[\w.-]*\.safetensors")


def is_there(directory: Path) -> bool:
    """Whether transformers has saved a model in the directory."""
    return (directory / CONFIG).is_file()


def read(directory: Path) -> nn.Module:
    """The pruned model that transformers has saved in the directory, in evaluation mode.

    Raises:
        CheckpointError: what was saved is no pruned model, is damaged, or can't be built from a file.
    """
    settings = _json(directory / CONFIG)
    if RECORD not in settings:
        raise CheckpointError(
            f"{directory} holds a model that mha has not pruned: {CONFIG} has no {RECORD!r}; transformers' own "
            "from_pretrained reads it"
        )
    weights = _weights(directory)
    try:
        model, misfits = _model(settings, settings.pop(RECORD), weights)
    except Exception as error:  # whatever transformers may raise about what is in a file
        raise CheckpointError(f"{directory}: the model that {CONFIG} describes can't be built here: {error}") from error
    if misfits:
        raise CheckpointError(f"{directory}: its weights do not fit the {type(model).__name__}: {'; '.join(misfits)}")
    if (directory / GENERATION).is_file():
        transformers = importlib.import_module("transformers")
        model.generation_config = transformers.GenerationConfig.from_dict(_json(directory / GENERATION))
    return cast(nn.Module, model.eval())


def _model(settings: dict[str, Any], record: Any, weights: dict[str, Tensor]) -> tuple[Any, list[str]]:
    """The pruned model with these weights, and a list of words for an error, on those that do not fit it.

    Args:
        settings: the configuration as its file has it, without the record.
        record: what the configuration says of what was pruned (`mha.pruning.configurations.record`).
    """
    _check_record(record)
    kind = _kind(settings.get("architectures"))
    config = _unpruned_config(kind, settings, record["dense"], weights)
    names = [name for name, _ in recipes.built_within(kind, config, *extent(weights)).named_modules()]
    plan = HeadPlan(_below(record["plan"], set(names), kind.base_model_prefix))
    pruning_class: Any = losing_heads(kind, plan)
    model, loaded = pruning_class.from_pretrained(
        None, config=config, state_dict=weights, output_loading_info=True, dtype="auto"
    )
    become(model, kind)
    _select_again(model)
    lists = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    return model, [
        f"{which.partition('_')[0]} {sorted(loaded[which], key=str)[:SHOWN]}" for which in lists if loaded.get(which)
    ]


def _check_record(record: Any) -> None:
    """Refuse a record of what was pruned that mha does not write.

    Raises:
        CheckpointError: it is of another version, or a field is of the wrong kind.
    """
    if not isinstance(record, dict) or record.get("version") != VERSION:
        raise CheckpointError(f"its {RECORD} is of another version than {VERSION}, which this release reads")
    dense = record.get("dense")
    numbers = isinstance(dense, dict) and all(
        isinstance(fields, dict) and all(value is None or isinstance(value, int) for value in fields.values())
        for fields in dense.values()
    )
    if not numbers or not all(FIELDS[name][1](record.get(name)) for name in ("plan", "attention")):
        raise CheckpointError(f"its {RECORD} is not one that mha writes")


def _kind(names: Any) -> Any:
    """The class of transformers that a configuration's `architectures` names.

    Raises:
        CheckpointError: it does not name exactly one.
    """
    transformers = importlib.import_module("transformers")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    kind = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not isinstance(kind, type):
        raise CheckpointError(f"its architectures are {names!r}; expected the name of one class of transformers")
    return allowed.class_at(f"{kind.__module__}:{kind.__qualname__}", transformers.PreTrainedModel)


def _unpruned_config(
    kind: Any, settings: dict[str, Any], dense: dict[str, dict[str, Any]], weights: Mapping[str, Tensor]
) -> Any:
    """The configuration that the model had before pruning.

    Args:
        kind: the model's class.
        settings: the configuration as its file has it, after pruning.
        dense: part of the configuration -> field -> its value before pruning.

    Raises:
        CheckpointError: the settings name code, or sizes far beyond the weights'.
    """
    settings = allowed.cleaned(settings)
    for path, fields in dense.items():
        part = settings
        for name in path.split(".") if path else ():
            part = part.get(name, {})
        if "per_layer_config" in fields:
            part.pop("per_layer_config", None)
    allowed.check_sizes({**settings, "dense": dense}, *extent(weights))
    config = unpruned_by(dense, kind.config_class.from_dict(settings))
    allowed.check_built(config)
    return config


def _below(plan: Mapping[str, Any], names: set[str], prefix: str) -> dict[str, Any]:
    """The plan under the layer names that the model has: without the prefix, for a base model that is saved alone."""
    if all(name in names for name in plan):
        return dict(plan)
    return {name.removeprefix(f"{prefix}."): heads for name, heads in plan.items()}


@making_class
def losing_heads(kind: Any, plan: HeadPlan) -> tuple[str, Members]:
    """A subclass of the same name, whose models are pruned by the plan as soon as they are made."""

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        with torch.device("cpu"):
            prune(self, plan, inplace=True)
        for module in self.modules():
            if (lineage := core_lineage(module)) is not None and not lineage.heads:
                module._is_hf_initialized = True  # nothing of it is drawn

    return "", {"__init__": init}


def _select_again(model: nn.Module) -> None:
    """Make the buffers again that no file holds: of features computed for all heads, the indices of those that stay."""
    for layer in find_attention(model).values():
        lineage = layer.lineage
        sizes = {**layer.sizes, "h": lineage.total_groups, "g": lineage.total_heads // lineage.total_groups}
        for name, axis in layer.description.selected.items():
            module = layer.module.get_submodule(name)
            if SELECTED in module._buffers:
                features = kept_indices(axis, sizes, lineage.heads, lineage.groups)
                module._buffers[SELECTED] = features.to(next(model.parameters()).device)


def _weights(directory: Path) -> dict[str, Tensor]:
    """All tensors in the directory's safetensors file, or in the shards that its index lists."""
    names = [WEIGHTS]
    if not (directory / WEIGHTS).is_file():
        shards = _json(directory / INDEX).get("weight_map")
        names = sorted(set(shards.values())) if isinstance(shards, dict) else []
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name) or not (directory / name).is_file():
            raise CheckpointError(
                f"{directory} has no {name}; save the model as safetensors, and copy the whole directory"
            )
        tensors |= read_tensors(directory / name)
    return tensors


def _json(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        CheckpointError: it can't be read, or holds something else.
    """
    try:
        check_size_of_document(path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: missing, not JSON, or cut off in the middle ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content
