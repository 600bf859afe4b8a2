"""The calls that reach each attention layer when a model runs, caught so that they can be repeated at will."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mha.costs.alike import PLAIN, Key
from mha.costs.counts import without_fast_path
from mha.families import AttentionMap
from mha.pruning.masking import nothing_compiled
from mha.runtime.undoing import hooked
from mha.values.errors import CostsError


class Call:
    """Arguments of a call, to be used any number of times: what a call might change is copied for each."""

    def __init__(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self._given = tuple(args), dict(kwargs or {})
        self._tensors = {id(part): part for part in _leaves(self._given) if isinstance(part, Tensor)}
        self._changeable = any(not isinstance(part, (Tensor, *PLAIN)) for part in _leaves(self._given))

    def fresh(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with caches and other objects copied, outside of what is timed; tensors are shared."""
        memo: dict[int, Any] = dict(self._tensors)
        return copy.deepcopy(self._given, memo) if self._changeable else self._given

    def on(self, device: torch.device | None = None) -> "Call":
        """The same with tensors of its own, which no later computation changes."""
        moved: dict[int, Any] = {key: copy.deepcopy(tensor.detach()) for key, tensor in self._tensors.items()}
        if device is not None:
            moved = {key: tensor.to(device) for key, tensor in moved.items()}
        return Call(*copy.deepcopy(self._given, moved))

    def key(self) -> Key:
        """Equal for calls of equal cost: shapes, types, plain values, and which arguments are one and the same."""
        order: dict[int, int] = {}
        return tuple((*path, _description(part, order)) for path, part in _paths(self._given))

    def __str__(self) -> str:
        """Every tensor, as "name dtype (shape)"."""
        tensors = [(path, part) for path, part in _paths(self._given) if isinstance(part, Tensor)]
        names = {path: ".".join(map(str, path[1:])) for path, _ in tensors}
        return ", ".join(f"{names[path]} {str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for path, t in tensors)


@dataclass
class Visits:
    """The calls of one layer during one run of the model, those of equal cost only counted."""

    calls: dict[Key, Call] = field(default_factory=dict)
    counts: dict[Key, int] = field(default_factory=dict)


def capture(model: nn.Module, layers: AttentionMap, call: Call) -> dict[str, Visits]:
    """Layer -> its calls in one run of the model; none for a layer that these inputs do not reach.

    Raises:
        CostsError: the model can't be called like that.
    """
    visits = {name: Visits() for name in layers}

    def note(seen: Visits, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        passing = Call(args, kwargs)
        key = passing.key()
        if key not in seen.calls:
            seen.calls[key] = passing.on()
        seen.counts[key] = seen.counts.get(key, 0) + 1

    args, kwargs = call.fresh()
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(hooked(layer.module, partial(note, visits[name]), before=True, with_kwargs=True))
        try:
            with torch.no_grad(), nothing_compiled():
                without_fast_path(lambda: model(*args, **kwargs))
        except Exception as error:
            raise CostsError(
                f"the model can't be called with these args and kwargs ({str(call) or 'none'}): "
                f"{type(error).__name__}: {error}"
            ) from error
    return visits


def _leaves(value: Any) -> Iterator[Any]:
    return (part for _, part in _paths(value))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Everything in a nest of tuples, lists and dictionaries, and where it stands."""
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        for index, part in enumerate(value):
            yield from _paths(part, (*path, index))
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _paths(part, (*path, name))
    else:
        yield path, value


def _description(part: Any, order: dict[int, int]) -> Any:
    if isinstance(part, Tensor):
        same_as = order.setdefault(id(part), len(order))
        shape = "nested" if part.is_nested else tuple(part.shape)
        return part.dtype, part.device, shape, same_as
    return part if isinstance(part, PLAIN) else type(part)
