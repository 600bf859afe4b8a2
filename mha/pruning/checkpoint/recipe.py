"""A transformers model as data: the names of its classes, and its configuration. And the model built from that."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mha.families import find_attention
from mha.pruning.checkpoint import allowed_classes as allowed
from mha.pruning.configurations import by_original_numbers, unpruned
from mha.values.errors import CheckpointError

DERIVED = "_from_model_config"
STEPS = 1000  # operations of torch to build what one saved tensor comes from; a few dozen is usual


def recipe_of(model: nn.Module) -> dict[str, Any]:
    """The names of the model's class and, if it is transformers', of its configuration's, and that before pruning.

    Returns:
        {"model_class": "module:name"}; for a transformers model also "config_class" alike, "config" (field -> value
        that is not the default), "implementations" ("attn_implementation" and "experts_implementation", each as
        `_implementations` gives it) and, if it has one, "generation_config" (with original head numbers).
    """
    recipe: dict[str, Any] = {"model_class": _path_of(type(model))}
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return recipe
    config: Any = unpruned(model.config, find_attention(model))
    recipe["config_class"] = _path_of(type(config))
    recipe["config"] = config.to_diff_dict()
    recipe["implementations"] = {name: _implementations(config, name) for name in allowed.IMPLEMENTATIONS}
    if getattr(model, "generation_config", None) is not None:
        recipe["generation_config"] = by_original_numbers(model).to_diff_dict()
    return recipe


def build(recipe: Mapping[str, Any], elements: int, tensors: int) -> nn.Module:
    """The unpruned model, on the meta device (its shapes, and no data) where that will do.

    Args:
        recipe: what `recipe_of` gave of a transformers model; it may come from a file and is checked.
        elements, tensors: how many numbers were saved of the pruned model, and in how many tensors.

    Raises:
        CheckpointError: the recipe asks for something that is no model of transformers, or is far larger than what was
            saved. Whatever transformers raises is raised too.
    """
    transformers = importlib.import_module("transformers")
    kind = allowed.class_at(recipe["model_class"], transformers.PreTrainedModel)
    config_class = allowed.class_at(recipe["config_class"], transformers.PreTrainedConfig)
    settings = allowed.cleaned(recipe["config"])
    allowed.check_sizes(settings, elements, tensors)
    config = config_class.from_dict(settings)
    for field, implementation in recipe["implementations"].items():
        setattr(config, f"_{field}", implementation)
    allowed.check_built(config)
    model = built_within(kind, config, elements, tensors)
    if "generation_config" in recipe:
        # One that says it was derived from the model's configuration is read without what only some models have.
        generation = {name: value for name, value in recipe["generation_config"].items() if name != DERIVED}
        model.generation_config = transformers.GenerationConfig.from_dict(generation)
        setattr(model.generation_config, DERIVED, bool(recipe["generation_config"].get(DERIVED)))
    return model


def built_within(kind: Any, config: Any, elements: int, tensors: int) -> Any:
    """A model of class `kind` with this configuration, on the meta device where that will do.

    It is on the CPU where it holds tensors that are neither parameters nor buffers, since these are not saved.

    Args:
        elements, tensors: how many numbers were saved of the pruned model, and in how many tensors.

    Raises:
        CheckpointError: building it makes a tensor of more than `most_elements(elements)` numbers, or takes more
            operations of torch than `STEPS` for each saved tensor and for 100 more.
    """
    with _Bounded(allowed.most_elements(elements), STEPS * (tensors + 100)):
        with torch.device("meta"):
            model = kind(config)
        if any(
            isinstance(value, Tensor) and value.is_meta for inner in model.modules() for value in vars(inner).values()
        ):
            model = kind(config)  # it also holds tensors that are neither parameters nor buffers, and so are not saved
    return model


class _Bounded(TorchDispatchMode):
    """Within the `with` block, torch may do at most `steps` operations, each returning at most `elements` numbers.

    Raises:
        CheckpointError: there are more operations, or one of them returns a larger tensor.
    """

    def __init__(self, elements: int, steps: int) -> None:
        super().__init__()
        self._elements, self._steps = elements, steps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._steps -= 1
        if self._steps < 0 or (isinstance(result, Tensor) and result.numel() > self._elements):
            raise CheckpointError("its configuration asks for a model far larger than the weights that were saved")
        return result


def _implementations(config: Any, name: str) -> dict[str, Any]:
    """The implementation of attention, or of experts, that a configuration asks for, under "", and under the name of
    each configuration inside it such a mapping of that one: {"": "sdpa", "vision_config": {"": "eager"}}.

    Args:
        name: a key of `allowed_classes.IMPLEMENTATIONS`; implementations that are not listed there are left out.
    """
    parts = {part: getattr(config, part, None) for part in config.sub_configs}
    by_part = {part: _implementations(inner, name) for part, inner in parts.items() if inner is not None}
    own = getattr(config, f"_{name}", None)
    known = own in allowed.IMPLEMENTATIONS[name]
    return {part: inner for part, inner in by_part.items() if inner} | ({"": own} if known else {})


def _path_of(kind: type) -> str:
    """The class as "module:name"."""
    return f"{kind.__module__}:{kind.__qualname__}"
