"""What a file may say about a model of transformers: which classes, and nothing that names a path or a repository.

A configuration is data, and yet some fields make transformers fetch a repository, unpickle a file or run another's
code: such fields are left out where the model is the same without them, and refused where it is not.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mha.values.errors import CheckpointError

CLASS = re.compile(r"transformers\.models\.(\w+\.)+(modeling|configuration)_\w+:\w+")
# They build models of another library from a name, a path or keyword arguments, or load compiled kernels.
REFUSED_PACKAGES = frozenset({"timm_wrapper", "timm_backbone", "mra", "yoso", "rwkv"})
# How attention and experts are computed is saved where it is one of these, which need nothing but torch.
IMPLEMENTATIONS = {"attn_implementation": ("eager", "sdpa"), "experts_implementation": ("eager",)}
LEFT_OUT = frozenset(
    {
        *("auto_map", "_name_or_path", "name_or_path", "_commit_hash", "custom_pipelines", "quantization_config"),
        *("compression_config", "kernel_config", "use_kernels", "trust_remote_code"),
        *(f"{start}{name}{end}" for name in IMPLEMENTATIONS for start in ("", "_") for end in ("", "_internal")),
    }
)
REFUSED = frozenset(
    {"backbone", "backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone", "model_args", "attribute_map"}
)
DEPTH = 20
LARGEST = 2**31
SIZES = re.compile(r"(^|_)(num|n|d|size|dim|dims|depth|depths|layers|heads|width|widths|channels|experts)(_|$)")
LAYERS = re.compile(r"(^|_)(layers?|blocks|depths?)$")


def class_at(path: str, base: type) -> Any:
    """The class of transformers that "module:name" names; nothing outside its models is imported.

    Args:
        path: such as "transformers.models.bert.modeling_bert:BertModel".
        base: what it has to be a subclass of.

    Raises:
        CheckpointError: the path names something else, a class that is no subclass of `base` or is defined elsewhere,
            or one in a package whose models are not built from a file (`REFUSED_PACKAGES`).
    """
    module, _, name = path.partition(":")
    if CLASS.fullmatch(path) and REFUSED_PACKAGES.isdisjoint(module.split(".")):
        kind = getattr(importlib.import_module(module), name, None)
        if inspect.isclass(kind) and issubclass(kind, base) and kind.__module__ == module:
            return kind
    raise CheckpointError(f"{path} is no {base.__name__} of transformers that may be built from a file")


def cleaned(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the fields in LEFT_OUT, at any depth: where it came from, code beside it, quantisation,
    kernels, and which implementations compute attention and experts.

    Raises:
        CheckpointError: a field would have another library or a repository build the model, or the configuration is
            nested more than DEPTH deep.
    """
    return {key: _cleaned(key, value, f"config.{key}", DEPTH) for key, value in config.items() if key not in LEFT_OUT}


def _cleaned(key: str, value: Any, place: str, depth: int) -> Any:
    """The value of one field of a configuration, without the fields that `cleaned` leaves out of what is nested in it.

    Args:
        key: the field's name.
        place: where the field stands, as "config.text_config.x", for the error.
        depth: how many levels deeper it may be nested, itself included.

    Raises:
        CheckpointError: the field is refused, as `cleaned` says, or one nested in it, or it is nested too deep.
    """
    if not depth:
        raise CheckpointError(f"{place} is nested more than {DEPTH} deep")
    if key in REFUSED and value:
        raise CheckpointError(f"{place} is {value!r}: no model of another library, or of a repository, is built")
    if key == "model_type" and value in REFUSED_PACKAGES:
        raise CheckpointError(f"{place} is {value!r}, which builds a model of another library")
    if isinstance(value, dict):
        fields = {name: field for name, field in value.items() if name not in LEFT_OUT}
        return {name: _cleaned(name, field, f"{place}.{name}", depth - 1) for name, field in fields.items()}
    if isinstance(value, list):
        return [_cleaned(key, item, place, depth - 1) for item in value]
    return value


def check_sizes(config: Mapping[str, Any], elements: int, tensors: int) -> None:
    """Refuse a configuration with whole numbers far beyond the saved tensors', before a model is built from it.

    A number of layers may be 1024 + 16 per saved tensor, another size `most_elements(elements)`, any other number
    `LARGEST`, by its absolute value; what a field counts is told by its name, and that of "theta" may be any.

    Args:
        elements: how many numbers were saved.
        tensors: in how many tensors.

    Raises:
        CheckpointError: a number is larger than that; the message says where it stands.
    """
    for place, number in _numbers("config", config):
        key = place.rpartition(".")[2]
        largest = (
            16 * tensors + 1024 if LAYERS.search(key) else most_elements(elements) if SIZES.search(key) else LARGEST
        )
        if abs(number) > largest and "theta" not in key:
            raise CheckpointError(f"{place} is {number}, and the weights are {tensors} tensors of {elements} numbers")


def most_elements(saved: int) -> int:
    """How many numbers a tensor of the unpruned model may have at most, if so many were saved of the pruned one."""
    return max(64 * saved, 2**24)


def _numbers(place: str, value: Any) -> Iterator[tuple[str, int]]:
    """Yield (place, number) for every whole number in nested mappings and lists.

    Args:
        place: where the value stands, "config"; keys are added to it, "config.text_config.x", but no indices of lists.
    """
    if isinstance(value, dict):
        for key, field in value.items():
            yield from _numbers(f"{place}.{key}", field)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(place, item)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield place, value


def check_built(config: Any) -> None:
    """Refuse a configuration from which, as it was built, no model may be made.

    Raises:
        CheckpointError: it, or one inside it, is not of a class that a model of transformers has for itself; has a
            value where its class has a method; or has a field of `LEFT_OUT` set that transformers does not set itself.
            The error names the class or the field.
    """
    for part in _configurations(config):
        kind = type(part)
        if not CLASS.fullmatch(f"{kind.__module__}:{kind.__qualname__}") or any(map(_is_refused, kind.__mro__)):
            raise CheckpointError(f"it holds a {kind.__module__}.{kind.__qualname__}, which is not built from a file")
        if hidden := [name for name in vars(part) if inspect.isroutine(getattr(kind, name, None))]:
            raise CheckpointError(f"its {hidden[0]} is a method of {kind.__name__}, and no value")
        if named := LEFT_OUT.intersection(name for name, value in vars(part).items() if value) - _OWN:
            raise CheckpointError(f"its {sorted(named)[0]} was set while a {kind.__name__} was made")


_OWN = frozenset({"_attn_implementation_internal", "_experts_implementation_internal", "_name_or_path"})


def _is_refused(kind: type) -> bool:
    """Whether the class is defined in a package of `REFUSED_PACKAGES`, whose models are not built from a file."""
    return not REFUSED_PACKAGES.isdisjoint(kind.__module__.split("."))


def _configurations(value: Any) -> Iterator[Any]:
    """Every configuration in a nest of configurations, mappings and sequences, the outer before the inner."""
    if hasattr(type(value), "sub_configs"):
        yield value
        yield from _configurations(vars(value))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _configurations(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _configurations(inner)
