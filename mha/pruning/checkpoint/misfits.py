"""The ways in which a checkpoint does not fit a model, as sentences for errors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mha.pruning.checkpoint.held import lineages, non_persistent, original_heads, tensors_of
from mha.values.plan import HeadPlan

SHOWN = 5  # misfits that an error tells


def misfits_outside_layers(
    skeleton: nn.Module, plan: HeadPlan, saved: Mapping[str, Tensor], content: Mapping[str, Any]
) -> Iterable[str]:
    """Yield a sentence for each misfit outside the layers that the plan names; these show before heads are cut.

    Misfits here are tensors of another shape, and names that are tied to a tensor which was not saved.

    Args:
        skeleton: the model before pruning.
        plan: that of the checkpoint.
        saved: the checkpoint's tensors, by name.
        content: what else it says, as `document.check_content` asks for it.
    """
    yield from (
        f"{name} is tied to {first}, which is not saved"
        for name, first in content["tied"].items()
        if first not in saved
    )
    optional = non_persistent(skeleton) | set(content["non_persistent"])
    layers = {*plan.keep, *lineages(skeleton)}
    for name, tensor in tensors_of(skeleton).items():
        stored = saved.get(content["tied"].get(name, name))
        inside = any(not layer or name.startswith(f"{layer}.") for layer in layers)
        if stored is not None and name not in optional and not inside and stored.shape != tensor.shape:
            yield _other_shape(name, stored, tensor)


def attention_misfits(pruned: nn.Module, plan: HeadPlan, content: Mapping[str, Any]) -> Iterable[str]:
    """Yield a sentence for each layer that the checkpoint has otherwise than the model.

    That is a layer made with other numbers of heads or groups, or one pruned in the model and not named by the plan.

    Args:
        pruned: the model, pruned by the plan.
        plan: that of the checkpoint.
        content: what the checkpoint says beside its tensors.
    """
    made = original_heads(pruned)
    for name, expected in content["attention"].items():
        if made.get(name, expected) != expected:
            yield f"layer {name!r} was made with {expected} when saved, and with {made[name]} here"
    for name, lineage in lineages(pruned).items():
        if name not in plan.keep:
            yield f"layer {name!r} was whole when saved and has been pruned to heads {list(lineage.heads)}"


def tensor_misfits(pruned: nn.Module, saved: Mapping[str, Tensor], content: Mapping[str, Any]) -> Iterable[str]:
    """Yield a sentence for each tensor that model and checkpoint do not both have, or not alike.

    Alike are those of one shape, both of a floating-point dtype or neither. Buffers that a state dict leaves out may
    differ, for the model makes them again while it runs; but one on the meta device has to be saved.

    Args:
        pruned: the model, pruned by the checkpoint's plan.
        saved: the checkpoint's tensors, by name.
        content: what else it says.
    """
    tensors, names = tensors_of(pruned), {*saved, *content["tied"]}
    optional = non_persistent(pruned) | set(content["non_persistent"])
    for name in sorted(tensors.keys() - names):
        if name not in optional or tensors[name].is_meta:
            yield f"{name} is not in the checkpoint"
    yield from (f"{name} is not in the model" for name in sorted(names - tensors.keys() - optional))
    for name in sorted(tensors.keys() & names - optional):
        tensor, stored = tensors[name], saved[content["tied"].get(name, name)]
        if tensor.shape != stored.shape:
            yield _other_shape(name, stored, tensor)
        elif tensor.is_floating_point() != stored.dtype.is_floating_point:
            yield f"{name} was saved as {stored.dtype} and is {tensor.dtype}"


def listing(misfits: Sequence[str]) -> str:
    """The first `SHOWN` of these sentences, and how many more there are, as one text for an error."""
    more = f", and {len(misfits) - SHOWN} more" if len(misfits) > SHOWN else ""
    return "; ".join(misfits[:SHOWN]) + more


def _other_shape(name: str, stored: Tensor, tensor: Tensor) -> str:
    """The sentence that the model's `tensor` has another shape than `stored`, the saved tensor of that name."""
    return f"{name} was saved with shape {tuple(stored.shape)} and has {tuple(tensor.shape)}"
