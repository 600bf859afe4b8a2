"""Pruned models on disk: safetensors and JSON, never pickle.

What was pruned is saved by original head number, and loading prunes an unpruned model again before its weights are
replaced: nothing on disk says what code to run, except by the name of a class of transformers.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import find_attention
from mha.families.base.emptied import name_before
from mha.families.base.wrappers import unwrapped
from mha.pruning.checkpoint import directory as checkpoint_directory
from mha.pruning.checkpoint import pretrained_directory
from mha.pruning.checkpoint import recipe as recipes
from mha.pruning.checkpoint.recipe import recipe_of
from mha.pruning.slicing import prune
from mha.values.errors import CheckpointError, MhaError
from mha.values.plan import HeadPlan, Lineage, lineage_of


def save_pruned(model: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write the model, pruned or whole, so that `load_pruned` gives it back.

    All parameters and buffers are saved in their own dtypes, also buffers that a state dict leaves out; which of
    them are tied is saved too. Gradients, hooks and what is trainable are not; a compiled model is saved as the one
    it was compiled from. A checkpoint that is already in the directory is replaced, at once and whole; other files
    there are left alone. Of two that save at once, the last one wins.

    Raises:
        CheckpointError: weights without data (meta) or of a special kind (quantised, sharded, sparse), modules with
            extra state, or a `directory` that is a file.
    """
    model = unwrapped(model)
    tensors, tied = _separate(_checked(model))
    content = {
        "plan": {name: lineage.heads for name, lineage in _lineages(model).items()},
        "attention": _original_heads(model),
        "tied": tied,
        "non_persistent": sorted(_non_persistent(model)),
        **recipe_of(model),
        "versions": _versions(),
    }
    checkpoint_directory.write(Path(directory), content, tensors)


def load_pruned(directory: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The model that `save_pruned` wrote, in evaluation mode.

    Args:
        model: the model before it was pruned; its weights do not matter (it may be on the meta device) and it is left
            untouched. The result has the saved weights and dtypes, on the devices of this model's. Not needed for a
            model whose class is transformers' own, which is built from its saved configuration (on the CPU; attention
            is "eager" or "sdpa", part by part, if it was, otherwise transformers' default).

    Raises:
        CheckpointError: the directory is foreign, cut off, damaged or of another version; or the model is missing,
            of another architecture, or pruned otherwise.
    """
    directory = Path(directory)
    content, saved = checkpoint_directory.read(directory)
    plan = HeadPlan(content["plan"])
    skeleton = _build(directory, content, saved) if model is None else unwrapped(model)
    where = f"{directory}: its plan and weights do not fit the {type(skeleton).__name__}"
    if misfits := list(_misfits_elsewhere(skeleton, plan, saved, content)):
        raise CheckpointError(f"{where}: {_listing(misfits)}; give the model as it was before it was pruned")
    try:
        pruned = prune(skeleton, plan, inplace=model is None)
    except MhaError as error:
        raise CheckpointError(f"{where}: {error}") from error
    saved, content = _as_named_now(pruned, saved, content)
    if misfits := [*_attention_misfits(pruned, plan, content), *_tensor_misfits(pruned, saved, content)]:
        raise CheckpointError(f"{where}: {_listing(misfits)}; give the model as it was before it was pruned")
    _fill(pruned, saved, content["tied"])
    return pruned.eval()


def from_pretrained(directory: str | os.PathLike[str]) -> nn.Module:
    """A pruned transformers model, in evaluation mode, from what `save_pruned` or transformers itself has written.

    The latter is what its `save_pretrained`, a trainer or `push_to_hub` write: the configuration in it says what was
    pruned. Only a local directory is read, only JSON and safetensors in it, and no code.

    Raises:
        CheckpointError: as `load_pruned`; or what transformers has written is whole, damaged, or of a class that isn't
            its own.
    """
    directory = Path(directory)
    if not (directory / checkpoint_directory.DOCUMENT).exists() and pretrained_directory.is_there(directory):
        return pretrained_directory.read(directory)
    return load_pruned(directory)


def _held(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under all of its names, whether a state dict would have it or not."""
    parameters = dict[str, Tensor](model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def _checked(model: nn.Module) -> dict[str, Tensor]:
    """What the model holds, all of it fit to be saved."""
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise CheckpointError(f"module {name!r}: {type(module).__name__} has extra state, which can't be saved")
    tensors = _held(model)
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
    """Each tensor once, with memory of its own; and for every further name of a tensor, the first."""
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


def _non_persistent(model: nn.Module) -> set[str]:
    """Buffers that a state dict leaves out: made again by the model, and some of them while it runs."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }


def _lineages(model: nn.Module) -> dict[str, Lineage]:
    """What plans have named, read off the modules themselves: a family need not recognise what is left of one."""
    found = {name: lineage_of(module) for name, module in model.named_modules()}
    return {name: lineage for name, lineage in found.items() if lineage is not None}


def _original_heads(model: nn.Module) -> dict[str, dict[str, int]]:
    """Layer -> how many heads and key/value groups it was made with."""
    whole = {name: layer.lineage for name, layer in find_attention(model).items()}
    return {
        name: {"heads": lineage.total_heads, "groups": lineage.total_groups}
        for name, lineage in {**whole, **_lineages(model)}.items()
    }


def _versions() -> dict[str, str]:
    found = {name: sys.modules.get(name) for name in ("mha", "torch", "transformers")}
    return {name: str(module.__version__) for name, module in found.items() if module is not None}


def _build(directory: Path, content: Mapping[str, Any], saved: Mapping[str, Tensor]) -> nn.Module:
    name = content["model_class"]
    instead = "give the model as it was before it was pruned: load_pruned(directory, model)"
    if "config" not in content or not name.startswith("transformers.models."):
        raise CheckpointError(f"{directory} holds a {name}, which transformers does not define; {instead}")
    try:
        return recipes.build(content, sum(tensor.numel() for tensor in saved.values()), len(saved))
    except Exception as error:  # whatever another version of transformers may raise
        saved_with = f"saved with {content['versions']}"
        raise CheckpointError(
            f"{directory} holds a {name}, {saved_with}, which can't be built here: {error}; {instead}"
        ) from error


def _attention_misfits(pruned: nn.Module, plan: HeadPlan, content: Mapping[str, Any]) -> Iterable[str]:
    """Where the model's attention was not made with the same heads, or lost others than the plan says."""
    made = _original_heads(pruned)
    for name, expected in content["attention"].items():
        if made.get(name, expected) != expected:
            yield f"layer {name!r} was made with {expected} when saved, and with {made[name]} here"
    for name, lineage in _lineages(pruned).items():
        if name not in plan.keep:
            yield f"layer {name!r} was whole when saved and has been pruned to heads {list(lineage.heads)}"


def _misfits_elsewhere(
    skeleton: nn.Module, plan: HeadPlan, saved: Mapping[str, Tensor], content: Mapping[str, Any]
) -> Iterable[str]:
    """Tensors outside the layers of the plan that have another shape, found before heads of any size are cut; and
    names that are tied to nothing."""
    yield from (
        f"{name} is tied to {first}, which is not saved"
        for name, first in content["tied"].items()
        if first not in saved
    )
    optional = _non_persistent(skeleton) | set(content["non_persistent"])
    layers = {*plan.keep, *_lineages(skeleton)}
    for name, held in _held(skeleton).items():
        found = saved.get(content["tied"].get(name, name))
        inside = any(not layer or name.startswith(f"{layer}.") for layer in layers)
        if found is not None and name not in optional and not inside and found.shape != held.shape:
            yield f"{name} was saved with shape {tuple(found.shape)} and has {tuple(held.shape)}"


def _tensor_misfits(pruned: nn.Module, saved: Mapping[str, Tensor], content: Mapping[str, Any]) -> Iterable[str]:
    """Tensors that only one side has, or in another shape; what the model makes while it runs may differ."""
    held, names = _held(pruned), {*saved, *content["tied"]}
    optional = _non_persistent(pruned) | set(content["non_persistent"])
    for name in sorted(held.keys() - names):
        if name not in optional or held[name].is_meta:
            yield f"{name} is not in the checkpoint"
    yield from (f"{name} is not in the model" for name in sorted(names - held.keys() - optional))
    for name in sorted(held.keys() & names - optional):
        if held[name].shape != (found := saved[content["tied"].get(name, name)].shape):
            yield f"{name} was saved with shape {tuple(found)} and has {tuple(held[name].shape)}"
        elif held[name].is_floating_point() != (kind := saved[content["tied"].get(name, name)].dtype).is_floating_point:
            yield f"{name} was saved as {kind} and is {held[name].dtype}"


def _as_named_now(
    pruned: nn.Module, saved: Mapping[str, Tensor], content: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and ties without what layers without heads kept in earlier releases: linears of size 0, and more that
    is not used. Of these the output's bias is left, under a name of its own. A layer that was saved with nothing of
    size 0 was saved with heads, whatever the plan says: it is left as it is, and fits nowhere."""
    held = _held(pruned)
    named = {**saved, **{name: saved[first] for name, first in content["tied"].items() if first in saved}}
    empty = [name for name, tensor in named.items() if not tensor.numel()]
    emptied = [
        layer
        for layer in find_attention(pruned).values()
        if not layer.num_heads and any(name.startswith(f"{layer.name}." if layer.name else "") for name in empty)
    ]
    now: dict[str, str] = {}
    for layer in emptied:
        output = layer.output_name
        now[f"{name_before(output)}.bias"] = f"{output}.bias"
    inside = tuple(f"{layer.name}." if layer.name else "" for layer in emptied)

    def stays(name: str) -> bool:
        return now.get(name, name) in held or not name.startswith(inside)

    tied = {now.get(name, name): now.get(first, first) for name, first in content["tied"].items() if stays(name)}
    tensors = {now.get(name, name): tensor for name, tensor in saved.items() if stays(name) or name in tied.values()}
    return tensors, {**content, "tied": tied}


def _listing(misfits: list[str], shown: int = 5) -> str:
    more = f", and {len(misfits) - shown} more" if len(misfits) > shown else ""
    return "; ".join(misfits[:shown]) + more


def _fill(pruned: nn.Module, saved: Mapping[str, Tensor], tied: Mapping[str, str]) -> None:
    """Put the saved tensors in place of the model's; names that were tied share one again."""
    made: dict[str, Tensor] = {}
    for name, old in _held(pruned).items():
        first = tied.get(name, name)
        if first not in saved:
            continue
        if first not in made:
            new = saved[first].to("cpu" if old.is_meta else old.device, copy=True)
            made[first] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        owner, _, attribute = name.rpartition(".")
        setattr(pruned.get_submodule(owner), attribute, made[first])
