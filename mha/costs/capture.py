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
    """The arguments of a call, by which it can be repeated: for each call, what that might change is copied."""

    def __init__(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self._arguments = tuple(args), dict(kwargs or {})
        self._tensors = {id(leaf): leaf for _, leaf in _leaves(self._arguments) if isinstance(leaf, Tensor)}
        self._changeable = any(not isinstance(leaf, (Tensor, *PLAIN)) for _, leaf in _leaves(self._arguments))

    def fresh(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for one call: caches and other objects that it may change are copied, tensors are shared."""
        memo: dict[int, Any] = dict(self._tensors)
        return copy.deepcopy(self._arguments, memo) if self._changeable else self._arguments

    def on(self, device: torch.device | None = None) -> "CallArguments":
        """A copy of these arguments whose tensors no later computation changes; they are moved to `device` if given."""
        moved: dict[int, Any] = {key: copy.deepcopy(tensor.detach()) for key, tensor in self._tensors.items()}
        if device is not None:
            moved = {key: tensor.to(device) for key, tensor in moved.items()}
        return CallArguments(*copy.deepcopy(self._arguments, moved))

    def key(self) -> Key:
        """A key that is equal for calls of equal cost.

        It holds each argument's name or index, and its value if that is plain, its dtype, device and shape if it is a
        tensor, else its type; and which of the tensors are the same object.
        """
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
        calls: `CallArguments.key` -> the arguments of the first call with this key; all calls with it cost the same.
        counts: the same key -> how many calls have it.
    """

    calls: dict[Key, CallArguments] = field(default_factory=dict)
    counts: dict[Key, int] = field(default_factory=dict)


def capture(model: nn.Module, layers: AttentionMap, call: CallArguments) -> dict[str, LayerCalls]:
    """Run the model once: layer name -> the calls that reached the layer; none where these inputs do not reach it.

    Args:
        call: the arguments that the model is called with.

    Raises:
        CostsError: the model fails on these arguments; the error names them, and what the model raised.
    """
    visits = {name: LayerCalls() for name in layers}

    def note(seen: LayerCalls, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count in `seen` a call that reaches a layer, and keep its arguments if they are the first of their key."""
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
    """Yield path and value of everything nested in the arguments that is itself no tuple, list or dictionary."""
    return leaves(arguments, containers=(tuple, list, dict))


def _description(leaf: Any, order: dict[int, int]) -> Any:
    """What of an argument decides a call's cost: a tensor's dtype, device and shape, a plain value, or else the type.

    Args:
        order: id of a tensor -> its number in the order of first appearance; a new tensor is added.
    """
    if isinstance(leaf, Tensor):
        same_as = order.setdefault(id(leaf), len(order))
        shape = "nested" if leaf.is_nested else tuple(leaf.shape)
        return leaf.dtype, leaf.device, shape, same_as
    return leaf if isinstance(leaf, PLAIN) else type(leaf)
