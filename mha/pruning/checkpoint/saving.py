"""Saves pruned models: safetensors and JSON, never pickle.

What was pruned is saved by original head number, and loading (`mha.pruning.checkpoint.loading`) prunes an unpruned
model again before its weights are replaced.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mha.families import find_attention
from mha.families.base.wrappers import unwrapped
from mha.pruning.checkpoint import directory as checkpoint_directory
from mha.pruning.checkpoint.held import lineages, non_persistent, original_heads, tensors_of
from mha.pruning.checkpoint.recipe import recipe_of
from mha.values.errors import CheckpointError


def save_pruned(model: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write the model, pruned or whole, so that `load_pruned` gives it back.

    All parameters and buffers are saved in their own dtypes, also buffers that a state dict leaves out; which of
    them are tied is saved too. Gradients, hooks and what is trainable are not; a compiled model is saved as the one
    it was compiled from. A checkpoint that is already in the directory is replaced, at once and whole; other files
    there are left alone. Of two that save at once, the last one wins.

    Raises:
        CheckpointError: weights without data (meta) or of a special kind (quantised, sharded, sparse), modules with
            extra state, a pruned layer that an adapter (LoRA) has been laid over, or a `directory` that is a file.

    Example:
        >>> import os, tempfile
        >>> pruned = mha.prune(mha.MultiHeadAttention.square(8, 4), mha.HeadPlan({"": (0, 3)}))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     mha.save_pruned(pruned, directory)
        ...     "pruned.json" in os.listdir(directory)
        True
    """
    model = unwrapped(model)
    tensors, tied = _separate(_checked(model))
    content = {
        "plan": {name: lineage.heads for name, lineage in lineages(model).items()},
        "attention": original_heads(model),
        "tied": tied,
        "non_persistent": sorted(non_persistent(model)),
        **recipe_of(model),
        "versions": _versions(),
    }
    checkpoint_directory.write(Path(directory), content, tensors)


def _checked(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers by all of their names, once all of them are found fit to be saved.

    Raises:
        CheckpointError: one is on the meta device, or is no plain dense tensor; or a module has extra state, or keeps
            in its state dict what is neither parameter nor buffer; or a pruned layer can't be pruned again by its plan,
            as loading has to.
    """
    unsupported = find_attention(model).unsupported
    for name in lineages(model):
        if name in unsupported:
            raise CheckpointError(
                f"layer {name!r} was pruned and then changed, and could not be loaded: {unsupported[name]} (peft: "
                "merge_and_unload; its save_pretrained writes the adapter alone)"
            )
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise CheckpointError(f"module {name!r}: {type(module).__name__} has extra state, which can't be saved")
    tensors = tensors_of(model)
    for name in sorted(model.state_dict().keys() - tensors.keys()):
        owner = name.rpartition(".")[0]
        kind = type(model.get_submodule(owner)).__name__
        raise CheckpointError(
            f"module {owner!r}: {kind} keeps {name} outside of parameters and buffers (is it quantised?), which can't "
            "be saved; save the model before that"
        )
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise CheckpointError(f"{name} is on the meta device: there are no weights to save")
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
            kind = f"{type(tensor).__name__}, {tensor.layout}, {tensor.dtype}"
            raise CheckpointError(f"{name} is no plain dense tensor ({kind}); turn it into one before saving")
    return tensors


def _separate(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, for a file that holds no tensor twice, and the further names of tensors that have several.

    Args:
        tensors: name -> tensor; one that is tied is there under all of its names.

    Returns:
        (first name of a tensor -> the tensor, contiguous, copied if it shares memory with one before it; further name
        of a tensor -> its first name).
    """
    names: dict[int, str] = {}
    tied = {name: first for name, tensor in tensors.items() if (first := names.setdefault(id(tensor), name)) != name}
    separate: dict[str, Tensor] = {}
    used = set()
    for name in names.values():
        tensor = tensors[name].detach().contiguous()
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        separate[name] = tensor.clone() if storage in used else tensor
        used.add(storage)
    return separate, tied


def _versions() -> dict[str, str]:
    """Library -> its version, for those of mha, torch and transformers that have been imported."""
    modules = {name: sys.modules.get(name) for name in ("mha", "torch", "transformers")}
    return {name: str(module.__version__) for name, module in modules.items() if module is not None}
