"""All that a call must leave as it was."""

import gc

import torch
from torch import nn
from torch.utils import checkpoint

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
)


def state_of(model: nn.Module) -> dict[str, object]:
    """A model's modules, classes, modes, hooks and attributes; its tensors, their versions, flags and gradients; the
    process's random state and settings. Equal to what it was if nothing has changed."""
    found: dict[str, object] = {
        "random": torch.get_rng_state().tolist(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "collecting": gc.isenabled(),
        "checkpoints": checkpoint.CheckpointFunction,
    }
    for name, module in model.named_modules():
        found[name] = id(module), type(module), module.training, sorted(vars(module))
        found[f"{name} hooks"] = [dict(vars(module)[hooks]) for hooks in HOOKS]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[f"{name} values"] = tensor.detach().flatten().tolist()
        found[f"{name} flags"] = id(tensor), tensor._version, tensor.requires_grad, id(tensor.grad)
    return found
