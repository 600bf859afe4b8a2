"""Cutting heads out for good: rows of W_q, W_k, W_v and columns of W_o leave the model.

Resolve first (`mha.pruning.resolve`), then apply: nothing touches a weight before the whole plan has been checked
against the whole model, and every new weight exists before the first old one is replaced.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mha.families.base.config_view import own_config
from mha.families.base.description import parameter_at
from mha.families.base.emptied import leave_output_bias
from mha.families.base.gathering import select
from mha.families.base.linears import is_conv1d
from mha.families.base.wrappers import unwrapped, why_fixed
from mha.pruning.configurations import restate
from mha.pruning.cut import Cut
from mha.pruning.indices import Indices, taken
from mha.pruning.optimizer_state import Following, Sliced
from mha.pruning.resolve import resolve
from mha.runtime.intercept import become, why_not_copied
from mha.runtime.locking import exclusive
from mha.values.errors import MhaError, OptimizerError
from mha.values.plan import HeadPlan, lineage_of, set_lineage


@exclusive("mha.prune")
def prune(
    model: nn.Module,
    plan: HeadPlan,
    *,
    inplace: bool = False,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
) -> nn.Module:
    """The model without the heads that the plan does not keep; it is called just like the original.

    Plans speak of original head numbers, also for a model that was pruned before. The result has its own
    weights (gradients are not carried over); with `inplace` the model itself changes and is returned.
    Layers that share a weight, or a linear, must lose the same heads of it, and go on sharing it.
    A layer that keeps no head still adds its output bias. Of a model that `torch.compile`, `DataParallel`,
    `DistributedDataParallel` or DeepSpeed wrapped, the copy is that of what was wrapped: wrap it anew. With `inplace`,
    what was compiled is compiled anew when it is called.

    Args:
        inplace: change the model itself. An optimizer that is training it goes on with the old parameters, and those
            of the model are trained no more, without an error: give it too, as `optimizer`.
        optimizer: with `inplace`, one or several that train the model, accelerate's too: its state is sliced along,
            step counts and pending gradients too, as by `slice_optimizer`; it stays the same object, so that schedules,
            gradient scalers and trainers go on with it. All of it is checked before anything changes.

    Raises:
        PlanError: a layer or head that is not there, key/value groups left with different numbers of
            query heads, layers left with different heads of what they share, or weights that contradict the
            layer's counts.
        OptimizerError: an optimizer whose state can't be sliced, or that trains another model.
        UnsupportedModule: a module of no known family, sharded, offloaded or scripted, one whose `forward` was replaced
            on the instance, or one with a projection that can't be sliced.
        MhaError: the model can't be copied; or, with `inplace`, it is wrapped in what goes on using its parameters
            (`DistributedDataParallel`, DeepSpeed).
        BusyError: another thread has the model, and waiting for it would not end.

    Example:
        >>> model = nn.ModuleDict({"attention": mha.MultiHeadAttention.square(8, 4)})
        >>> pruned = mha.prune(model, mha.HeadPlan({"attention": (0, 3)}))
        >>> pruned["attention"].W_q.weight.shape  # 2 heads of width 2
        torch.Size([4, 8])
    """
    cuts = resolve(model, plan)
    if inplace and (why := why_fixed(model)):
        raise MhaError(why)
    if optimizer is not None and not inplace:
        raise OptimizerError("optimizer= goes with inplace=True; for a pruned copy, mha.slice_optimizer makes another")
    pruned = unwrapped(model) if inplace else _copied(unwrapped(model))
    sliced: dict[int, Sliced] = {}
    parameters = [_sliced(pruned.get_submodule(cut.layer), cut, sliced) for cut in cuts]
    following = None if optimizer is None else Following(optimizer, list(sliced.values()), pruned.parameters())
    before = {cut.layer: lineage_of(pruned.get_submodule(cut.layer)) for cut in cuts}
    for cut, replacements in zip(cuts, parameters, strict=True):
        _apply(pruned.get_submodule(cut.layer), cut, replacements)
    restate(pruned, before)
    if following is not None:
        following.follow(pruned.parameters())
    return model if inplace else pruned


def plan_of(model: nn.Module) -> HeadPlan:
    """What has been pruned so far: the layers that plans have named, and the heads they still have.

    `plan_of(prune(model, plan)) == plan` for a model that was whole. Layers that have since been changed so that they
    can't be pruned on, as by an adapter, are told too.

    Example:
        >>> model = nn.ModuleDict({"attention": mha.MultiHeadAttention.square(8, 4)})
        >>> mha.plan_of(mha.prune(model, mha.HeadPlan({"attention": (0, 3)})))
        HeadPlan({'attention': (0, 3)})
    """
    of_modules = {name: lineage_of(module) for name, module in unwrapped(model).named_modules()}
    return HeadPlan({name: lineage.heads for name, lineage in of_modules.items() if lineage is not None})


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy of the model.

    Raises:
        MhaError: something in the model can't be copied; the message says what.
    """
    if why := why_not_copied(model):
        raise MhaError(why)
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a module of the user's may raise
        raise MhaError(
            f"the {type(model).__name__} can't be copied ({error}); drop what it remembers of earlier calls, or prune "
            "it with inplace=True"
        ) from error


def _sliced(module: nn.Module, cut: Cut, sliced: dict[int, Sliced]) -> dict[str, Tensor]:
    """The new parameters, by name below the layer, that replace those which lose entries; nothing is changed yet.

    Args:
        module: the layer.
        sliced: id of an old parameter -> its replacement, of all layers so far. Those of this layer are added, and the
            new parameter that another layer has added is used where the two share the old one.
    """
    parameters = {name: parameter_at(module, name) for name in cut.indices}
    for name, indices in cut.indices.items():
        old = parameters[name]
        assert old is not None
        if id(old) not in sliced and any(len(index) < old.shape[dim] for dim, index in indices.items()):
            sliced[id(old)] = Sliced(cut.name_of(name), old, _smaller(old, indices), indices)
    return {name: sliced[id(parameter)].new for name, parameter in parameters.items() if id(parameter) in sliced}


def _smaller(parameter: Tensor, indices: Indices) -> Tensor:
    """A copy of the parameter, or buffer, with only the entries at these indices, trainable if the parameter is."""
    tensor = taken(parameter, indices)
    return nn.Parameter(tensor, parameter.requires_grad) if isinstance(parameter, nn.Parameter) else tensor


def _apply(module: nn.Module, cut: Cut, parameters: Mapping[str, Tensor]) -> None:
    """Apply the cut to the layer, in place: parameters, counts, configuration of the core, its class, and lineage.

    Args:
        module: the layer.
        parameters: name below the layer -> the new parameter of that name.
    """
    for name, parameter in parameters.items():
        owner, _, attribute = name.rpartition(".")
        _put(module.get_submodule(owner), attribute, parameter)
    for name, value in cut.counts.items():
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, value)
    core: Any = module.get_submodule(cut.core)
    if cut.config:
        core.config = own_config(core.config, cut.config)
    become(core, cut.becomes)
    for name, features in cut.selected.items():
        select(module.get_submodule(name), features)
    set_lineage(module, cut.lineage, core)
    if cut.emptied is not None:
        leave_output_bias(module, cut.emptied, cut.output, cut.linears, cut.tensors)


def _put(holder: Any, attribute: str, parameter: Tensor) -> None:
    """Set a parameter of a module; for the weight of a linear, also the numbers of features that the linear states."""
    setattr(holder, attribute, parameter)
    if isinstance(holder, nn.Linear) and attribute == "weight":
        holder.out_features, holder.in_features = parameter.shape
    elif is_conv1d(holder) and attribute == "weight":
        holder.nx, holder.nf = parameter.shape
