"""The document of a checkpoint: what it must say, checked in one place before anything is done with it."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mha.pruning.checkpoint.allowed_classes import IMPLEMENTATIONS
from mha.values.errors import CheckpointError, PlanError
from mha.values.plan import HeadPlan

SHA256 = re.compile(r"[0-9a-f]{64}")
Check = Callable[[Any], bool]


def check_content(content: Mapping[str, Any]) -> None:
    """Refuse a document in which a field of `FIELDS` is missing, or has another form than said there.

    With a field "config" it needs those of `OF_TRANSFORMERS` too. Fields that are named nowhere are not looked at.

    Raises:
        CheckpointError: a field is missing or of another form, or the plan is malformed; it names the field, and what
            was expected.
    """
    fields = FIELDS | (OF_TRANSFORMERS if "config" in content else {})
    for field, (expected, check) in fields.items():
        if field not in content or not check(content[field]):
            raise CheckpointError(f"{field!r} is {_shown(content.get(field))}; expected {expected}")
    if not _is_mapping(content.get("generation_config", {})):
        raise CheckpointError(f"'generation_config' is {_shown(content['generation_config'])}; expected an object")
    try:
        HeadPlan(content["plan"])
    except PlanError as error:
        raise CheckpointError(f"'plan': {error}") from error


def _shown(value: Any) -> str:
    """The value as text for an error, cut after 80 characters; "missing" for None."""
    text = "missing" if value is None else repr(value)
    return text if len(text) < 80 else f"{text[:80]}…"


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_plan(value: Any) -> bool:
    """Whether it is a mapping whose values are lists of whole numbers from 0, the numbers of heads."""
    heads = list(value.values()) if isinstance(value, dict) else [None]
    return all(isinstance(kept, list) and all(map(_is_count, kept)) for kept in heads)


def _is_attention(value: Any) -> bool:
    """Whether it is a mapping whose values are mappings with just "heads" and "groups", both whole numbers from 0."""
    counts = list(value.values()) if isinstance(value, dict) else [None]
    return all(
        isinstance(made, dict) and made.keys() == {"heads", "groups"} and all(map(_is_count, made.values()))
        for made in counts
    )


def _are_words(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(word, str) for word in value.values())


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_file(value: Any) -> bool:
    """Whether it is a mapping that has a "sha256" of 64 hexadecimal digits and, as "size", a whole number from 0."""
    named = isinstance(value, dict) and isinstance(value.get("sha256"), str)
    return named and bool(SHA256.fullmatch(value["sha256"])) and _is_count(value.get("size"))


def _are_implementations(value: Any) -> bool:
    """Whether it is a mapping from keys of `IMPLEMENTATIONS` to implementations that are allowed for these.

    The latter are nested by the configurations inside the configuration, as `_are_of` says.
    """
    return (
        isinstance(value, dict)
        and value.keys() <= IMPLEMENTATIONS.keys()
        and all(_are_of(parts, IMPLEMENTATIONS[name]) for name, parts in value.items())
    )


def _are_of(parts: Any, names: tuple[str, ...]) -> bool:
    """Whether this is a mapping whose values are each one of `names`, or another such mapping."""
    return isinstance(parts, dict) and all(
        value in names if isinstance(value, str) else _are_of(value, names) for value in parts.values()
    )


FIELDS: dict[str, tuple[str, Check]] = {
    "plan": ("layer -> heads that are left", _is_plan),
    "attention": ('layer -> {"heads": …, "groups": …} that it was made with', _is_attention),
    "tied": ("tensor -> the one that it is", _are_words),
    "non_persistent": ("a list of buffers", _are_names),
    "model_class": ("the name of a class", lambda value: isinstance(value, str)),
    "versions": ("library -> version", _are_words),
    "weights": ("the SHA-256 and the size of a file", _is_file),
}
OF_TRANSFORMERS: dict[str, tuple[str, Check]] = {
    "config": ("an object", _is_mapping),
    "config_class": ("the name of a class", lambda value: isinstance(value, str)),
    "implementations": ("how attention and experts are computed, by part", _are_implementations),
}
