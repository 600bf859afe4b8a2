"""What models are wrapped in: compiled, replicated, sharded or scripted ones.

Wrappers are known by the names of their classes, so that nothing is imported to find out.
"""

from collections.abc import Iterator
from typing import cast

from torch import nn
from torch.jit import ScriptModule

PARALLEL = "torch.nn.parallel."
DISTRIBUTED = f"{PARALLEL}distributed.DistributedDataParallel"
ENGINE = "deepspeed.runtime.engine.DeepSpeedEngine"
# Class -> where it holds the model; layers have the names that they have there.
HOLDERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    f"{PARALLEL}data_parallel.DataParallel": "module",
    DISTRIBUTED: "module",
    ENGINE: "module",
}
# Class -> how its parameters can be replaced: not while it holds them.
FIXED = {
    DISTRIBUTED: "it synchronises the parameters that it was made with; prune its .module and wrap the result anew",
    ENGINE: "it trains the parameters that it was made with; prune its .module and initialize anew",
}
SHARDED = {
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "FSDP",
    "torch.distributed.fsdp.FSDPModule": "fully_shard",
}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that `torch.compile`, data parallelism or DeepSpeed wrapped; the model itself where nothing did."""
    while place := _known(model, HOLDERS):
        model = cast(nn.Module, getattr(model, place))
    return model


def why_fixed(model: nn.Module) -> str | None:
    """The reason why the model's parameters can't be replaced, since its wrapper goes on using them; otherwise None."""
    while place := _known(model, HOLDERS):
        if why := _known(model, FIXED):
            return f"the model is wrapped in {type(model).__name__}: {why}"
        model = cast(nn.Module, getattr(model, place))
    return None


def why_held(model: nn.Module, layer: str) -> str | None:
    """The reason why the layer of this name can't be pruned inside of the model; None where it can.

    It can't where it is sharded by FSDP, is wrapped by DistributedDataParallel or DeepSpeed, or has parameters that
    accelerate has offloaded.
    """
    for name, module in _around(model, layer):
        if how := _known(module, SHARDED):
            return f"{name} is sharded by {how}, so its parameters lie in parts; prune it before it is sharded"
        if why := _known(module, FIXED):
            return f"{name} is a {type(module).__name__}: {why}"
    inside = model.get_submodule(layer)
    hooked = any("_hf_hook" in vars(module) for module in (*dict(_around(model, layer)).values(), *inside.modules()))
    if hooked and (empty := next((name for name, parameter in inside.named_parameters() if parameter.is_meta), None)):
        return (
            f"{empty} is offloaded by accelerate, and has no values in the model; load the model without offloading "
            "and prune it before it is dispatched"
        )
    return None


def why_scripted(module: nn.Module) -> str | None:
    """The reason why attention in TorchScript can't be pruned; None for anything else."""
    if not isinstance(module, ScriptModule):
        return None
    return (
        f"{module.original_name} was scripted or traced, and its code has the sizes that it was made with; "
        "prune the model that it was made from, then script or trace the result"
    )


def _around(model: nn.Module, layer: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that the layer lies in, from the model down, and itself, each after what an error calls it."""
    steps = layer.split(".") if layer else []
    for depth in range(len(steps) + 1):
        name = ".".join(steps[:depth])
        yield (repr(name) if name else "the model"), model.get_submodule(name)


def _known(module: nn.Module, classes: dict[str, str]) -> str | None:
    """The entry in `classes` for the module's class, or for the first of its bases that has one; None without any."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(module).__mro__)
    return next((classes[name] for name in names if name in classes), None)
