"""What a model is called with, to be timed and to be compared: from its task, or random ones that it takes."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mha.cli.settings import note
from mha.runtime.nests import leaves, mapped
from mha.tasks import Task
from mha.values.errors import CalibrationError

CONTAINERS = (list, tuple, dict)
BATCH, LENGTH = 8, 64  # unless the command line, or a task, says otherwise

Inputs = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments


def inputs_of(
    model: nn.Module, task: Task | None, device: torch.device, batch_size: int | None = None, length: int | None = None
) -> Inputs:
    """Inputs on this device: those that the task gives as an example, or random ones by the model's configuration.

    Args:
        batch_size: how many examples; that of the task unless given, or 8.
        length: of sequences, in tokens; that of the task's data unless given, or 64.

    Raises:
        CalibrationError: there is no task, and the configuration does not say what the model takes.
    """
    if task is not None:
        args, kwargs = task.example(batch_size or int(getattr(task, "batch_size", 32)), length)
    else:
        args, kwargs = (), random_inputs(model, batch_size or BATCH, length or LENGTH)
    return moved(args, device), moved(kwargs, device)


def moved(nest: Any, device: torch.device) -> Any:
    """The nest with its tensors on this device."""
    return mapped(nest, lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, CONTAINERS)


def random_inputs(model: nn.Module, batch_size: int, length: int) -> dict[str, Any]:
    """Random token ids (b, n), or random images (b, channels, height, width), as the model's configuration asks for.

    Raises:
        CalibrationError: it does not say.
    """
    config = getattr(model, "config", None)
    name, vocabulary = getattr(model, "main_input_name", None), getattr(config, "vocab_size", None)
    generator = torch.Generator().manual_seed(0)
    if name == "input_ids" and isinstance(vocabulary, int):
        longest = getattr(config, "max_position_embeddings", None) or length
        if length > longest:
            note(f"{length} tokens are more than the model takes: {longest} it is")
        ids = torch.randint(vocabulary, (batch_size, min(length, longest)), generator=generator)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if getattr(config, "is_encoder_decoder", False):
            given["decoder_input_ids"] = ids
        taken = inspect.signature(model.forward).parameters
        return {**given, **({"use_cache": False} if "use_cache" in taken else {})}
    size = getattr(config, "image_size", None)
    if name == "pixel_values" and isinstance(size, int | list | tuple):
        height, width = (size, size) if isinstance(size, int) else size
        shape = (batch_size, getattr(config, "num_channels", 3), height, width)
        return {"pixel_values": torch.randn(shape, generator=generator).to(next(model.parameters()).dtype)}
    raise CalibrationError(
        f"what a {type(model).__name__} is called with is not known; give --task, whose example says it"
    )


def described(inputs: Inputs) -> tuple[int | None, int | None]:
    """The batch size, and the tokens of each example, None where that is not known, of these inputs."""
    args, kwargs = inputs
    tensors = {".".join(map(str, path)): leaf for path, leaf in leaves((args, kwargs), CONTAINERS) if _counts(leaf)}
    first = next(iter(tensors.values()), None)
    ids = next((tensor for name, tensor in tensors.items() if name.endswith("input_ids")), None)
    return (None if first is None else len(first)), (None if ids is None or ids.dim() < 2 else ids.shape[-1])


def _counts(leaf: Any) -> bool:
    """Whether it is a tensor of a batch."""
    return isinstance(leaf, Tensor) and leaf.dim() > 0
