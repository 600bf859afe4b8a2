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
    """Whether transformers has saved a model in the directory, told by a `config.json` in it."""
    return (directory / CONFIG).is_file()


def read(directory: Path) -> nn.Module:
    """The pruned model that transformers has saved in the directory, in evaluation mode.

    Raises:
        CheckpointError: the configuration has no record of pruning; a file is missing or can't be read; the model can't
            be built from its configuration; or the weights do not fit it.
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
    """The pruned model with these weights, and sentences for an error on weights that do not fit it, [] if all do.

    Args:
        settings: the configuration as its file has it, without the record.
        record: what the configuration says of what was pruned, as `configurations.record.record_of` makes it.
        weights: name as transformers saved it -> tensor.

    Raises:
        CheckpointError: the record, the class or the configuration is refused, or asks for too large a model. What
            transformers and `prune` raise is raised too.
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
    """Refuse a record of what was pruned that is not as `configurations.record.record_of` makes it.

    Raises:
        CheckpointError: it is no mapping, or of another version; or its plan or attention is malformed, or a value that
            a field had before pruning is neither a whole number nor None.
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

    Args:
        names: the value of that field.

    Raises:
        CheckpointError: it is no list of exactly one name, or that is no model class which transformers defines and
            which may be built from a file.
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
        dense: dotted name of a configuration inside it, "" for itself -> field -> its value before pruning.
        weights: the saved tensors, by whose number sizes are limited.

    Raises:
        CheckpointError: the settings name another library or a repository, or sizes far beyond the weights', or lead to
            a configuration of a class that transformers does not define for a model.
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
    """The plan under the layer names that the model has.

    Where one of the plan's names is not among them, `prefix` and a dot are taken off all names: a base model, saved
    alone, has kept the record that the whole model had.

    Args:
        plan: layer -> heads.
        names: of all modules of the model.
        prefix: the name of the base model in the whole one, "bert".
    """
    if all(name in names for name in plan):
        return dict(plan)
    return {name.removeprefix(f"{prefix}."): heads for name, heads in plan.items()}


@making_class
def losing_heads(kind: Any, plan: HeadPlan) -> tuple[str, Members]:
    """A subclass of `kind`, of the same name, whose models are pruned by the plan as soon as they are made.

    Layers that keep no head are marked as initialised, so that transformers does not draw weights for them.
    `making_class` makes the subclass of what is returned here, the end of its name and its members.
    """

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        with torch.device("cpu"):
            prune(self, plan, inplace=True)
        for module in self.modules():
            if (lineage := core_lineage(module)) is not None and not lineage.heads:
                module._is_hf_initialized = True  # nothing of it is drawn

    return "", {"__init__": init}


def _select_again(model: nn.Module) -> None:
    """Fill the buffers that no file holds, in place, of submodules that compute features of all heads and select some.

    They hold the indices of the features that are selected, and go to the device of the model's first parameter.
    """
    for layer in find_attention(model).values():
        lineage = layer.lineage
        sizes = {**layer.sizes, "h": lineage.total_groups, "g": lineage.total_heads // lineage.total_groups}
        for name, axis in layer.description.selected.items():
            module = layer.module.get_submodule(name)
            if SELECTED in module._buffers:
                features = kept_indices(axis, sizes, lineage.heads, lineage.groups)
                module._buffers[SELECTED] = features.to(next(model.parameters()).device)


def _weights(directory: Path) -> dict[str, Tensor]:
    """All tensors in the directory's `model.safetensors`, or in the shards that its index lists, by name.

    Raises:
        CheckpointError: a file is missing or can't be read, or the index names one that is not in the directory itself.
    """
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
        CheckpointError: it is missing, too large or not JSON, or holds another value than an object.
    """
    try:
        check_size_of_document(path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: missing, not JSON, or cut off in the middle ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content
