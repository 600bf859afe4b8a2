"""Pruned models on disk: safetensors and JSON, never pickle.

A checkpoint is a directory with two files. `pruned.json` says what was pruned, by original head number, and names
the weights by their SHA-256; `pruned-<sha256>.safetensors` holds them. Replacing `pruned.json` is the one step
that switches from an old checkpoint to a new one, so a crash leaves the old or the new, never half of each.
"""

import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mha.errors import CheckpointError, MhaError
from mha.families import find_attention
from mha.heads import HeadPlan, Lineage, lineage_of
from mha.pruning import prune

FORMAT = "mha.pruned"
VERSION = 1
DOCUMENT = "pruned.json"
LOCK = ".pruned.lock"
OURS = re.compile(r"transformers\.models\.[\w.]+:\w+")
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")


def save_pruned(model: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write the model, pruned or whole, so that `load_pruned` gives it back.

    All parameters and buffers are saved in their own dtypes, also buffers that a state dict leaves out; which of
    them are tied is saved too. Gradients, hooks and what is trainable are not. A checkpoint that is already in the
    directory is replaced, at once and whole; other files there are left alone. Of two that save at once, the last
    one wins.

    Raises:
        CheckpointError: weights without data (meta) or of a special kind (quantised, sharded, sparse), modules with
            extra state, or a `directory` that is a file.
    """
    model, directory = _uncompiled(model), Path(directory)
    tensors, tied = _separate(_checked(model))
    content = {
        "plan": {name: lineage.heads for name, lineage in _lineages(model).items()},
        "attention": _original_heads(model),
        "tied": tied,
        "non_persistent": sorted(_non_persistent(model)),
        **_recipe(model),
        "versions": _versions(),
    }
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file; a checkpoint is a directory")
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / LOCK):
        weights = _write_weights(directory, tensors)
        _write_document(directory, {**content, "weights": weights})
        for path in directory.glob("pruned-*.safetensors"):
            if path != _weights_path(directory, weights):
                path.unlink()


def load_pruned(directory: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The model that `save_pruned` wrote, in evaluation mode.

    Args:
        model: the model before it was pruned; its weights do not matter (it may be on the meta device) and it is left
            untouched. The result has the saved weights and dtypes, on the devices of this model's. Not needed for a
            model whose class is transformers' own, which is built from its saved configuration (on the CPU; attention
            is "eager" if it was, otherwise transformers' default).

    Raises:
        CheckpointError: the directory is foreign, cut off, damaged or of another version; or the model is missing,
            of another architecture, or pruned otherwise.
    """
    directory = Path(directory)
    content, saved = _read(directory)
    plan = HeadPlan(content["plan"])
    skeleton = _build(directory, content) if model is None else _uncompiled(model)
    where = f"{directory}: its plan and weights do not fit the {type(skeleton).__name__}"
    try:
        pruned = prune(skeleton, plan, inplace=model is None)
    except MhaError as error:
        raise CheckpointError(f"{where}: {error}") from error
    if misfits := [*_attention_misfits(pruned, plan, content), *_tensor_misfits(pruned, saved, content)]:
        raise CheckpointError(f"{where}: {_listing(misfits)}; give the model as it was before it was pruned")
    _fill(pruned, saved, content["tied"])
    return pruned.eval()


def from_pretrained(directory: str | os.PathLike[str]) -> nn.Module:
    """The transformers model that `save_pruned` wrote, in evaluation mode; see `load_pruned`."""
    return load_pruned(directory)


def _uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, or the model itself."""
    return getattr(model, "_orig_mod", model)


# What a model holds


def _held(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under all of its names, whether a state dict would have it or not."""
    parameters = dict[str, Tensor](model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def _checked(model: nn.Module) -> dict[str, Tensor]:
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise CheckpointError(f"module {name!r}: {type(module).__name__} has extra state, which can't be saved")
    for name, tensor in _held(model).items():
        if tensor.is_meta:
            raise CheckpointError(f"{name} is on the meta device: there are no weights to save")
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
            kind = f"{type(tensor).__name__}, {tensor.layout}, {tensor.dtype}"
            raise CheckpointError(f"{name} is no plain dense tensor ({kind}); turn it into one before saving")
    return _held(model)


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


def _recipe(model: nn.Module) -> dict[str, Any]:
    """The model's class and, if transformers can build it from that, its configuration."""
    recipe: dict[str, Any] = {"model_class": f"{type(model).__module__}:{type(model).__qualname__}"}
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return recipe
    config: Any = model.config
    recipe["config"] = config.to_diff_dict()
    recipe["implementations"] = {name: "eager" for name in IMPLEMENTATIONS if getattr(config, f"_{name}") == "eager"}
    if getattr(model, "generation_config", None) is not None:
        recipe["generation_config"] = model.generation_config.to_diff_dict()
    return recipe


def _versions() -> dict[str, str]:
    found = {name: sys.modules.get(name) for name in ("mha", "torch", "transformers")}
    return {name: str(module.__version__) for name, module in found.items() if module is not None}


# Files


def _write_weights(directory: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    partial = directory / "pruned.safetensors.partial"
    save_file(tensors, partial)
    weights = {"sha256": _sha256(partial), "size": partial.stat().st_size}
    _publish(partial, _weights_path(directory, weights))
    return weights


def _write_document(directory: Path, content: dict[str, Any]) -> None:
    document = {"format": FORMAT, "version": VERSION, "sha256": _digest(content), **content}
    partial = directory / f"{DOCUMENT}.partial"
    partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    _publish(partial, directory / DOCUMENT)


def _publish(partial: Path, path: Path) -> None:
    """Rename a file that is complete on the disk, not only in memory."""
    with partial.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    if hasattr(os, "O_DIRECTORY"):  # where directories can be synchronised too
        descriptor = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pruned.json` says, and the weights it names; nothing is trusted before it has been checked."""
    while True:
        content = _read_document(directory)
        try:
            return content, _read_weights(_weights_path(directory, content["weights"]), content["weights"])
        except FileNotFoundError as error:
            # Gone, or replaced by another process in the meantime.
            if _read_document(directory)["weights"] == content["weights"]:
                path = _weights_path(directory, content["weights"])
                raise CheckpointError(f"{directory}: {path.name} is missing; copy the whole directory") from error


def _read_document(directory: Path) -> dict[str, Any]:
    path = directory / DOCUMENT
    if not path.is_file():
        found = "has no" if directory.is_dir() else "is no directory with a"
        raise CheckpointError(f"{directory} {found} {DOCUMENT}: it was not written by mha.save_pruned")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON, or cut off in the middle ({error})") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CheckpointError(f'{path}: not a pruned model: expected a JSON object with "format": "{FORMAT}"')
    if (version := content.pop("version", None)) != VERSION:
        raise CheckpointError(f"{path}: version {version!r} of the format; this release reads version {VERSION}")
    if content.pop("sha256", None) != _digest(content):
        raise CheckpointError(f"{path}: damaged: its contents are not what was saved (SHA-256 differs)")
    return content


def _read_weights(path: Path, weights: Mapping[str, Any]) -> dict[str, Tensor]:
    if (size := path.stat().st_size) != weights["size"]:
        raise CheckpointError(f"{path}: damaged: expected {weights['size']} bytes, found {size}")
    if _sha256(path) != weights["sha256"]:
        raise CheckpointError(f"{path}: damaged: its contents are not what was saved (SHA-256 differs)")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not in the safetensors format ({error})") from error


def _weights_path(directory: Path, weights: Mapping[str, Any]) -> Path:
    return directory / f"pruned-{weights['sha256']}.safetensors"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


# From files to a model


def _build(directory: Path, content: Mapping[str, Any]) -> nn.Module:
    """The unpruned transformers model on the meta device: its shapes, and no data."""
    name = content["model_class"]
    if "config" not in content or not OURS.fullmatch(name):
        raise CheckpointError(
            f"{directory} holds a {name}, which transformers does not define: give the model as it was before it was "
            "pruned, load_pruned(directory, model)"
        )
    module, _, attribute = name.partition(":")
    try:
        transformers = importlib.import_module("transformers")
        kind: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{directory} holds a {name}, saved with {content['versions']}: {error}; install that version of "
            "transformers, or give the model as it was before it was pruned, load_pruned(directory, model)"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise CheckpointError(f"{directory}: {name} is not a model of transformers")
    config = kind.config_class.from_dict(content["config"], **content["implementations"])
    with torch.device("meta"):
        model: Any = kind(config)
    if "generation_config" in content:
        model.generation_config = transformers.GenerationConfig.from_dict(content["generation_config"])
    return model


def _attention_misfits(pruned: nn.Module, plan: HeadPlan, content: Mapping[str, Any]) -> Iterable[str]:
    """Where the model's attention was not made with the same heads, or lost others than the plan says."""
    made = _original_heads(pruned)
    for name, expected in content["attention"].items():
        if made.get(name, expected) != expected:
            yield f"layer {name!r} was made with {expected} when saved, and with {made[name]} here"
    for name, lineage in _lineages(pruned).items():
        if name not in plan.keep:
            yield f"layer {name!r} was whole when saved and has been pruned to heads {list(lineage.heads)}"


def _tensor_misfits(pruned: nn.Module, saved: Mapping[str, Tensor], content: Mapping[str, Any]) -> Iterable[str]:
    """Tensors that only one side has, or in another shape; what the model makes while it runs may differ."""
    held, names = _held(pruned), {*saved, *content["tied"]}
    optional = _non_persistent(pruned) | set(content["non_persistent"])
    for name in held.keys() - names:
        if name not in optional or held[name].is_meta:
            yield f"{name} is not in the checkpoint"
    yield from (f"{name} is not in the model" for name in sorted(names - held.keys() - optional))
    for name in held.keys() & names - optional:
        if held[name].shape != (found := saved[content["tied"].get(name, name)].shape):
            yield f"{name} was saved with shape {tuple(found)} and has {tuple(held[name].shape)}"


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
