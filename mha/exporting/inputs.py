"""What a model is called with, by the names of its forward's parameters; and other inputs of other sizes like it."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mha.values.errors import ExportError

SIZES = ((1, 3), (2, 17), (5, 8))  # of batch and length, that exports are tried at
FEW = 64  # values of whole numbers that an example shows, all of which may come again


def named(model: nn.Module, example: Any) -> dict[str, Any]:
    """The example as names of the forward's parameters -> values.

    Args:
        example: (args, kwargs), or args alone, or kwargs alone, or one tensor.

    Raises:
        ExportError: the forward does not take that, or has no names for it; or there is no tensor in it.
    """
    args, kwargs = _parted(example)
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise ExportError(
            f"the example does not fit {type(model).__name__}.forward ({error}); give (args, kwargs) as it is called"
        ) from error
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise ExportError(
                f"{type(model).__name__}.forward takes *{name}, which has no names that a runtime could know; wrap the "
                "model in a module whose forward names its inputs"
            )
        given |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    given = {name: value for name, value in given.items() if value is not None}
    if not any(isinstance(value, Tensor) for value in given.values()):
        raise ExportError(f"the example has no tensor among {', '.join(given) or 'its inputs'}; give one")
    return given


def _parted(example: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Positional and keyword arguments of an example in any of its forms."""
    if isinstance(example, Mapping):
        return (), example
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Sequence) and len(example) == 2 and isinstance(example[1], Mapping):
        args = example[0]
        return ((args,) if isinstance(args, Tensor) else tuple(args)), example[1]
    if isinstance(example, Sequence):
        return tuple(example), {}
    raise ExportError(f"expected an example as (args, kwargs), got {type(example).__name__}")


def tensors_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors among inputs, by name."""
    return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}


def variants(
    inputs: Mapping[str, Any], sizes: Mapping[str, Sequence[int | None]], seed: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """Yield inputs like an example, with other values, and other sizes along their first two axes where any size does.

    Floating-point values are drawn with the example's mean and deviation, whole numbers and truth values from those
    that the example has. A mask (b, s) of ones with zeros behind them stays one.

    Args:
        sizes: tensor among the inputs -> its sizes as the export takes them, None where any does.

    Yields:
        For each of SIZES, inputs of that batch and length, and such as are as long as the example: a model may take no
        other length, or the second axis be another thing, such as the channels of images.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = tensors_of(inputs)
    lengths = {value.shape[1] for value in tensors.values() if value.dim() > 1}

    def shape_of(name: str, batch: int, length: int | None) -> list[int]:
        shape = list(tensors[name].shape)
        known = sizes.get(name, shape)
        if shape and known[0] is None:
            shape[0] = batch
        if len(shape) > 1 and known[1] is None and shape[1] in lengths and length is not None:
            shape[1] = length
        return shape

    for batch, length in SIZES:
        shapes = [{name: shape_of(name, batch, each) for name in tensors} for each in (length, None)]
        yield [
            {**inputs, **{name: _drawn(tensors[name], shape, generator) for name, shape in each.items()}}
            for each in (shapes if shapes[0] != shapes[1] else shapes[:1])
        ]


def _drawn(value: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """A tensor of this shape with values like those of another."""
    if value.is_floating_point():
        spread = value.std() if value.numel() > 1 else value.new_ones(())
        drawn = torch.randn(shape, generator=generator) * float(spread) + float(value.mean())
        return drawn.to(value.dtype)
    if _is_mask(value):
        return _mask(value, shape, generator)
    values = value.unique()
    picks = torch.randint(len(values), tuple(shape), generator=generator)
    return values[picks]


def _is_mask(value: Tensor) -> bool:
    """Whether a tensor (b, s) has ones, and behind them zeros, in every row."""
    if value.dim() != 2 or not set(value.unique().tolist()) <= {0, 1}:
        return False
    return bool((value.long().diff(dim=1) <= 0).all()) and bool(value[:, 0].all())


def _mask(value: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """A mask of that shape: rows of ones, and, where the example has zeros, of random lengths of at least one."""
    rows, columns = shape
    lengths = torch.randint(1, columns + 1, (rows,), generator=generator)
    lengths[0] = columns
    if value.all():
        lengths[:] = columns
    return (torch.arange(columns) < lengths[:, None]).to(value.dtype)
