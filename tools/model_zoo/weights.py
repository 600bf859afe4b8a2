"""Random weights under which every head matters and nothing blows up."""

import math

import torch
from torch import Tensor, nn

GAINS = ("norm", "gamma", "lambda", "scale", "original0", "weight_g", "ln_", "layernorm")
TABLES = ("embed", "token", "position", "relative", "bias_table", "query", "cls", "latents", "codebook", "memory")
TRANSPOSED = ("Conv1D",)  # weight is (in, out)
RAISED = {"pred_obj_score_head.proj_out.bias": 20.0}  # where SAM's trackers see no object, they return no mask


def draw_weights(model: nn.Module, seed: int) -> None:
    """Draw every parameter, and the statistics of batch norms, from a seeded normal distribution.

    Matrices have a spread of 1/√fan_in, biases 0.3, gains and scales lie around 1: no projection, gate or scale is
    zero, as many are after the usual initialisation.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                owner = model.get_submodule(name.rpartition(".")[0])
                raised = sum(by for ending, by in RAISED.items() if name.endswith(ending))
                parameter.copy_(_drawn(name, parameter, owner, generator) + raised)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.2 * _normal(buffer, generator))
            elif name.endswith("running_var"):
                buffer.copy_(1 + 0.2 * _normal(buffer, generator).abs())
            elif buffer.is_floating_point() and name.endswith(("codebook.embed", "correction_bias", "layer_scalar")):
                buffer.copy_(1 + 0.2 * _normal(buffer, generator))


def _drawn(name: str, parameter: Tensor, owner: nn.Module, generator: torch.Generator) -> Tensor:
    noise = _normal(parameter, generator)
    kind, leaf = type(owner).__name__.lower(), name.rpartition(".")[2]
    if parameter.dim() <= 1:
        is_gain = leaf != "bias" and any(word in kind or word in leaf.lower() for word in GAINS)
        if is_gain or parameter.dim() == 0:
            return 1 + 0.2 * noise
        return 0.3 * noise
    if "original0" in leaf or leaf == "weight_g":
        return 1 + 0.2 * noise
    if isinstance(owner, nn.Embedding) or any(word in leaf.lower() for word in TABLES):
        return 0.7 * noise
    return noise / math.sqrt(_fan_in(parameter, owner))


def _fan_in(parameter: Tensor, owner: nn.Module) -> int:
    if isinstance(owner, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return math.prod(parameter.shape[1:])
    if type(owner).__name__ in TRANSPOSED:
        return parameter.shape[0]
    return max(parameter.shape[-2:])


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)
