"""Builds a pruned model from what is on disk.

A model that was not pruned is pruned by the saved plan, then its tensors are replaced. Nothing on disk says what code
to run, except by the name of a class of transformers.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mha.families import find_attention
from mha.families.base.emptied import name_before
from mha.families.base.wrappers import unwrapped
from mha.pruning.checkpoint import directory as checkpoint_directory
from mha.pruning.checkpoint import pretrained_directory
from mha.pruning.checkpoint import recipe as recipes
from mha.pruning.checkpoint.held import tensors_of
from mha.pruning.checkpoint.misfits import attention_misfits, listing, misfits_outside_layers, tensor_misfits
from mha.pruning.checkpoint.reading import extent
from mha.pruning.slicing import prune
from mha.values.errors import CheckpointError, MhaError
from mha.values.plan import HeadPlan


def load_pruned(directory: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The model that `save_pruned` wrote, in evaluation mode.

    Args:
        model: the model before it was pruned; its weights do not matter (it may be on the meta device) and it is left
            untouched. The result has the saved weights and dtypes, on the devices of this model. Not needed for a
            model whose class is transformers' own, which is built from its saved configuration (on the CPU; attention
            is "eager" or "sdpa", part by part, if it was, otherwise transformers' default).

    Raises:
        CheckpointError: the directory was not written by `save_pruned`, or is cut off, damaged or of another version;
            or the model is needed and not given, of another architecture, or pruned otherwise.

    Example:
        >>> import tempfile
        >>> attention = mha.MultiHeadAttention.square(8, 4)
        >>> pruned = mha.prune(attention, mha.HeadPlan({"": (0, 3)}))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     mha.save_pruned(pruned, directory)
        ...     loaded = mha.load_pruned(directory, mha.MultiHeadAttention.square(8, 4))
        >>> loaded.W_q.weight.shape, torch.equal(loaded.W_q.weight, pruned.W_q.weight)
        (torch.Size([4, 8]), True)
    """
    directory = Path(directory)
    content, saved = checkpoint_directory.read(directory)
    plan = HeadPlan(content["plan"])
    skeleton = _built(directory, content, saved) if model is None else unwrapped(model)
    where = f"{directory}: its plan and weights do not fit the {type(skeleton).__name__}"
    if misfits := list(misfits_outside_layers(skeleton, plan, saved, content)):
        raise CheckpointError(f"{where}: {listing(misfits)}; give the model as it was before it was pruned")
    try:
        pruned = prune(skeleton, plan, inplace=model is None)
    except MhaError as error:
        raise CheckpointError(f"{where}: {error}") from error
    saved, content = _as_named_now(pruned, saved, content)
    if misfits := [*attention_misfits(pruned, plan, content), *tensor_misfits(pruned, saved, content)]:
        raise CheckpointError(f"{where}: {listing(misfits)}; give the model as it was before it was pruned")
    _fill(pruned, saved, content["tied"])
    return pruned.eval()


def from_pretrained(directory: str | os.PathLike[str]) -> nn.Module:
    """A pruned transformers model, in evaluation mode, from what `save_pruned` or transformers itself has written.

    The latter is what its `save_pretrained`, a trainer or `push_to_hub` write: the configuration in it says what was
    pruned. Only a local directory is read, only JSON and safetensors in it, and no code.

    Raises:
        CheckpointError: neither has written the directory; it is cut off, damaged or of another version; the model in
            it has not been pruned by mha, though transformers wrote it; or its class is not one that transformers
            defines, or can't be built from its configuration.

    Example:
        >>> pruned.save_pretrained("pruned-bert")  # doctest: +SKIP
        >>> model = mha.from_pretrained("pruned-bert")  # doctest: +SKIP
    """
    directory = Path(directory)
    if not (directory / checkpoint_directory.DOCUMENT).exists() and pretrained_directory.is_there(directory):
        return pretrained_directory.read(directory)
    return load_pruned(directory)


def _built(directory: Path, content: Mapping[str, Any], saved: Mapping[str, Tensor]) -> nn.Module:
    """The model before pruning, built from its class of transformers and its configuration.

    Args:
        directory: where the checkpoint is, for the error.
        content: what the checkpoint says beside its tensors.
        saved: the checkpoint's tensors, by whose number the model's size is limited.

    Raises:
        CheckpointError: transformers does not define the class, or can't build it.
    """
    name = content["model_class"]
    instead = "give the model as it was before it was pruned: load_pruned(directory, model)"
    if "config" not in content or not name.startswith("transformers.models."):
        raise CheckpointError(f"{directory} holds a {name}, which transformers does not define; {instead}")
    try:
        return recipes.build(content, *extent(saved))
    except Exception as error:  # whatever another version of transformers may raise
        saved_with = f"saved with {content['versions']}"
        raise CheckpointError(
            f"{directory} holds a {name}, {saved_with}, which can't be built here: {error}; {instead}"
        ) from error


def _as_named_now(
    pruned: nn.Module, saved: Mapping[str, Tensor], content: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The saved tensors, and what else the checkpoint says, as this release would have saved layers without heads.

    Earlier releases saved linears of size 0 there, and more that is not used. Of all that, the output's bias is kept,
    under the name that it has now. A layer that was saved with nothing of size 0 was saved with heads, whatever the
    plan says: it is left as it is, and the checks that follow refuse it.

    Args:
        pruned: the model, pruned by the saved plan.
        saved: the checkpoint's tensors.
        content: what else it says.
    """
    held = tensors_of(pruned)
    named = {**saved, **{name: saved[first] for name, first in content["tied"].items() if first in saved}}
    empty = [name for name, tensor in named.items() if not tensor.numel()]
    without_heads = {
        f"{layer.name}." if layer.name else "": layer
        for layer in find_attention(pruned).values()
        if not layer.num_heads
    }
    emptied = {
        prefix: layer for prefix, layer in without_heads.items() if any(name.startswith(prefix) for name in empty)
    }
    now = {f"{name_before(layer.output_name)}.bias": f"{layer.output_name}.bias" for layer in emptied.values()}

    def stays(name: str) -> bool:
        return now.get(name, name) in held or not name.startswith(tuple(emptied))

    tied = {now.get(name, name): now.get(first, first) for name, first in content["tied"].items() if stays(name)}
    tensors = {now.get(name, name): tensor for name, tensor in saved.items() if stays(name) or name in tied.values()}
    return tensors, {**content, "tied": tied}


def _fill(pruned: nn.Module, saved: Mapping[str, Tensor], tied: Mapping[str, str]) -> None:
    """Put the saved tensors in place of the model's, on their devices; names that were tied share one tensor again.

    Args:
        tied: further name of a saved tensor -> the name under which it is saved.
    """
    made: dict[str, Tensor] = {}
    for name, old in tensors_of(pruned).items():
        first = tied.get(name, name)
        if first not in saved:
            continue
        if first not in made:
            new = saved[first].to("cpu" if old.is_meta else old.device, copy=True)
            made[first] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        owner, _, attribute = name.rpartition(".")
        setattr(pruned.get_submodule(owner), attribute, made[first])
