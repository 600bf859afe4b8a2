"""Inputs and features that come for all original heads: each layer takes those of the heads that it still has.

Position biases and ALiBi are made by the model, for all heads of all layers; a norm over the full width of queries or
keys needs all heads' features for its statistic. What was pruned is known by the layer's lineage.
"""

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mha.runtime.generated_classes import WHOLE, Members, making_class, whole
from mha.runtime.intercept import become
from mha.values.errors import MhaError, ShapeError
from mha.values.plan import core_lineage

SELECTED = "selected_features"  # a buffer: the features that are returned, of all that are computed
GATHERS = "_mha_gathers"  # on a class that gathers
# Masks may come for all heads in any model: somebody adds a position bias to them. Nearly always they are of one head.
MASKS = ("attention_mask", "encoder_attention_mask", "attn_mask", "mask")
MASK_DIM, MASK_RANK = -3, 4  # (b, h or 1, q, k); one of another rank counts no heads


def gathering(kind: Any, per_head: Mapping[str, int]) -> type[nn.Module]:
    """A subclass of `kind` that takes these inputs for all original heads, and uses the part of the heads still here.

    It is `kind` itself if that was made by this function.

    Args:
        per_head: input -> the dimension that counts heads, or examples times heads, from the back.

    Raises:
        MhaError: the forward has no input of one of these names, and takes no **kwargs.
    """
    if getattr(kind, GATHERS, False):
        return cast(type[nn.Module], kind)
    return _gathering(kind, tuple(sorted(per_head.items())))


@making_class
def _gathering(kind: Any, per_head: tuple[tuple[str, int], ...]) -> tuple[str, Members]:
    """A subclass whose forward hands on, of these inputs, only the part that is for the heads still here."""
    made_from = getattr(kind, WHOLE, kind)
    inputs = inspect.signature(made_from.forward).parameters
    places = {name: place for place, name in enumerate(inputs, start=-1)}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in inputs.values())
    if unknown := [name for name, _ in per_head if name not in inputs and not takes_any]:
        raise MhaError(f"{kind.__name__}.forward is given {list(inputs)[1:]}, and per_head names {unknown}")

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for name, dim in per_head:
            place = places.get(name, len(args))
            if name in kwargs:
                kwargs[name] = _of_heads(self, name, kwargs[name], dim)
            elif place < len(args):
                args = (*args[:place], _of_heads(self, name, args[place], dim), *args[place + 1 :])
        return kind.forward(self, *args, **kwargs)

    return "OfFewerHeads", {"forward": forward, GATHERS: True}


def masks_of(core: nn.Module) -> dict[str, int]:
    """The inputs of the module's forward that are masks -> the dimension of each that counts heads, from the back."""
    return {name: MASK_DIM for name in inspect.signature(whole(core).forward).parameters if name in MASKS}


def _of_heads(core: nn.Module, name: str, value: Any, dim: int) -> Any:
    """The part of an input, or of each tensor in a tuple, for the heads still here, as `of_heads` takes it.

    What is no tensor, or is a mask that is the same for all heads, is returned as it is.
    """
    if isinstance(value, tuple):
        return tuple(_of_heads(core, name, part, dim) for part in value)
    lineage = core_lineage(core)
    if not isinstance(value, Tensor) or lineage is None:
        return value
    if name in MASKS and (value.dim() != MASK_RANK or value.shape[dim] != lineage.total_heads):
        return value
    return of_heads(core, name, value, dim)


def of_heads(core: nn.Module, name: str, value: Tensor, dim: int) -> Tensor:
    """The part of an input that belongs to the heads still here; the input itself where the core has no lineage.

    Args:
        name: what the error calls the input.
        value: (..., h, ...) or (..., b x h, ...) for all original heads, or of size 1 there if it is the same for all.
        dim: the dimension that counts heads, from the back.

    Raises:
        ShapeError: the input's length along `dim` is neither 1 nor a multiple of the number of original heads.
    """
    lineage = core_lineage(core)
    if lineage is None or value.dim() < -dim or value.shape[dim] == 1:
        return value
    if value.shape[dim] % lineage.total_heads:
        raise ShapeError(
            f"{name}: expected 1, or a multiple of the {lineage.total_heads} original heads, along dimension {dim}; "
            f"got {tuple(value.shape)}"
        )
    heads = torch.tensor(lineage.heads, device=value.device, dtype=torch.long)
    split = value.unflatten(dim, (-1, lineage.total_heads))
    return split.index_select(dim, heads).flatten(dim - 1, dim)


@making_class
def selecting(kind: Any) -> tuple[str, Members]:
    """A subclass whose forward returns only those of the features of `kind`'s forward that `select` has chosen."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        every: Tensor = kind.forward(self, *args, **kwargs)
        return every.index_select(-1, self.get_buffer(SELECTED))

    return "OfFewerHeads", {"forward": forward}


def select(module: nn.Module, features: Tensor) -> None:
    """Let the module's forward return only the features at these indices, counted among those it returns now."""
    if (before := module._buffers.get(SELECTED)) is not None:
        before.data = before.index_select(0, features.to(before.device))
        return
    device = next((parameter.device for parameter in module.parameters()), features.device)
    module.register_buffer(SELECTED, features.to(device), persistent=False)
    kind: Any = type(module)
    become(module, selecting(kind))


def selected(module: nn.Module) -> int | None:
    """How many features the module returns once `select` has chosen some; None where it has chosen none."""
    buffer = module._buffers.get(SELECTED)
    return None if buffer is None else len(buffer)
