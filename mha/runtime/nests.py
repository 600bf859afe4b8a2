"""Nests: what a model is given or returns, in tuples, lists and mappings of any depth.

Which types count as containers differs from use to use, so each call says it: for copying, only types that are known
how to make anew; for comparing, any mapping. A string and a `torch.Size` are values, never containers.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Path = tuple[Any, ...]  # the keys and indices that lead to a part
VALUES = (str, bytes, torch.Size)


def leaves(nest: Any, containers: tuple[type, ...], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Everything in the nest that is no container, in order, each with the keys and indices that lead to it.

    Args:
        containers: the types that are looked into.
        path: the keys and indices that lead to the nest itself, which all of those returned begin with.
    """
    if not _is_container(nest, containers):
        yield path, nest
        return
    for key, part in nest.items() if isinstance(nest, Mapping) else enumerate(nest):
        yield from leaves(part, containers, (*path, key))


def tensors(nest: Any, containers: tuple[type, ...]) -> Iterator[Tensor]:
    """Every tensor in the nest, in order; `containers` are the types that are looked into."""
    return (leaf for _, leaf in leaves(nest, containers) if isinstance(leaf, Tensor))


def mapped(nest: Any, change: Callable[[Any], Any], containers: tuple[type, ...]) -> Any:
    """The nest with `change(leaf)` in the place of each leaf, which is whatever is not of the types `containers`.

    A container in which every leaf is the same object as before is returned itself, not copied.
    """
    if not _is_container(nest, containers):
        return change(nest)
    parts = list(nest.values()) if isinstance(nest, Mapping) else list(nest)
    new = [mapped(part, change, containers) for part in parts]
    return nest if all(part is old for part, old in zip(new, parts, strict=True)) else refilled(nest, new)


def refilled(container: Any, parts: list[Any]) -> Any:
    """A container of the same type that holds these parts, in order; a mapping keeps its keys."""
    if isinstance(container, Mapping):
        filled: Any = copy.copy(container)
        for key, part in zip(container, parts, strict=True):
            filled[key] = part
        return filled
    return type(container)(*parts) if is_named_tuple(container) else type(container)(parts)


def is_named_tuple(value: Any) -> bool:
    """Whether the value is a named tuple, whose class takes the entries as separate arguments, as no other tuple's."""
    return isinstance(value, tuple) and hasattr(value, "_make")


def _is_container(value: Any, containers: tuple[type, ...]) -> bool:
    """Whether the value is of one of these types, and no string or `torch.Size`."""
    return isinstance(value, containers) and not isinstance(value, VALUES)
