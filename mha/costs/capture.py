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
from mha.runtime.nests import Path, leaves
from mha.runtime.undoing import hooked
from mha.values.errors import CostsError


class CallArguments:
    """The arguments of a call, to be used any number of times: what a call might change is copied for each."""

    def __init__(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self._arguments = tuple(args), dict(kwargs or {})
        self._tensors = {id(leaf): leaf for _, leaf in _leaves(self._arguments) if isinstance(leaf, Tensor)}
        self._changeable = any(not isinstance(leaf, (Tensor, *PLAIN)) for _, leaf in _leaves(self._arguments))

    def fresh(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with caches and other objects copied, outside of what is timed; tensors are shared."""
        memo: dict[int, Any] = dict(self._tensors)
        return copy.deepcopy(self._arguments, memo) if self._changeable else self._arguments

    def on(self, device: torch.device | None = None) -> "CallArguments":
        """The same arguments, on that device, with tensors of their own, which no later computation changes."""
        moved: dict[int, Any] = {key: copy.deepcopy(tensor.detach()) for key, tensor in self._tensors.items()}
        if device is not None:
            moved = {key: tensor.to(device) for key, tensor in moved.items()}
        return CallArguments(*copy.deepcopy(self._arguments, moved))

    def key(self) -> Key:
        """A key, equal for calls of equal cost: shapes, types, plain values, and which arguments are the same."""
        order: dict[int, int] = {}
        return tuple((*path, _description(leaf, order)) for path, leaf in _leaves(self._arguments))

    def __str__(self) -> str:
        """All tensors among the arguments, each as "name dtype (shape)"."""
        tensors = [(path, leaf) for path, leaf in _leaves(self._arguments) if isinstance(leaf, Tensor)]
        names = {path: ".".join(map(str, path[1:])) for path, _ in tensors}
        return ", ".join(f"{names[path]} {str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for path, t in tensors)


@dataclass
class LayerCalls:
    """The calls of one layer during one run of the model.

    Attributes:
        calls: key of the cost -> the arguments of the first call that costs so much.
        counts: key of the cost -> how many calls cost so much.
    """

    calls: dict[Key, CallArguments] = field(default_factory=dict)
    counts: dict[Key, int] = field(default_factory=dict)


def capture(model: nn.Module, layers: AttentionMap, call: CallArguments) -> dict[str, LayerCalls]:
    """The calls of every layer in one run of the model, by its name; none for one that these inputs do not reach.

    Raises:
        CostsError: the model can't be called like that.
    """
    visits = {name: LayerCalls() for name in layers}

    def note(seen: LayerCalls, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note down a call that reaches a layer."""
        passing = CallArguments(args, kwargs)
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


def _leaves(arguments: Any) -> Iterator[tuple[Path, Any]]:
    """Everything in arguments that is no tuple, list or dictionary, with its path."""
    return leaves(arguments, containers=(tuple, list, dict))


def _description(leaf: Any, order: dict[int, int]) -> Any:
    """What of an argument decides the cost of a call.

    Args:
        order: id of a tensor -> how many came before it; one that came before is told by its number.
    """
    if isinstance(leaf, Tensor):
        same_as = order.setdefault(id(leaf), len(order))
        shape = "nested" if leaf.is_nested else tuple(leaf.shape)
        return leaf.dtype, leaf.device, shape, same_as
    return leaf if isinstance(leaf, PLAIN) else type(leaf)
