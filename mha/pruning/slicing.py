"""Cutting heads out for good: rows of W_q, W_k, W_v and columns of W_o leave the model.

Resolve first, then apply: nothing touches a weight before the whole plan has been checked against the
whole model, and every new weight exists before the first old one is replaced.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mha.families import AttentionLayer, AttentionMap, find_attention
from mha.families.base.config_view import own_config
from mha.families.base.description import part_of
from mha.families.base.emptied import Emptied, leave_output_bias
from mha.families.base.gathering import select, selected
from mha.families.base.linears import is_conv1d
from mha.families.base.wrappers import unwrapped, why_fixed, why_held
from mha.pruning.configurations import restate
from mha.pruning.masking import locate
from mha.pruning.optimizer_state import Following, Sliced, taken
from mha.runtime.intercept import become, why_not_copied, why_stuck
from mha.runtime.locking import exclusive
from mha.values.errors import MhaError, OptimizerError, PlanError, UnsupportedModule
from mha.values.layout import Axis, count, kept_positions, width
from mha.values.plan import HeadPlan, Lineage, lineage_of, set_lineage

LINEARS = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)


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
        UnsupportedModule: a module of no known family, sharded or scripted, or a projection that can't be sliced.
        MhaError: the model can't be copied; or, with `inplace`, it is wrapped in what goes on using its parameters
            (`DistributedDataParallel`, DeepSpeed).
        BusyError: another thread has the model, and waiting for it would not end.
    """
    cuts = _cuts(model, plan)
    if inplace and (why := why_fixed(model)):
        raise MhaError(why)
    if optimizer is not None and not inplace:
        raise OptimizerError("optimizer= goes with inplace=True; for a pruned copy, mha.slice_optimizer makes another")
    pruned = unwrapped(model) if inplace else _copied(unwrapped(model))
    made: dict[int, Sliced] = {}
    sliced = [(cut, _sliced(pruned.get_submodule(cut.layer), cut, made)) for cut in cuts]
    following = None if optimizer is None else Following(optimizer, list(made.values()), pruned.parameters())
    before = {cut.layer: lineage_of(pruned.get_submodule(cut.layer)) for cut in cuts}
    for cut, tensors in sliced:
        _apply(pruned.get_submodule(cut.layer), cut, tensors)
    restate(pruned, before)
    if following is not None:
        following.follow(pruned.parameters())
    return model if inplace else pruned


def kept_entries(model: nn.Module, plan: HeadPlan) -> dict[str, dict[int, Tensor]]:
    """Every parameter that `prune(model, plan)` slices, by name -> dimension -> the positions that it keeps, ascending.

    Raises:
        PlanError, UnsupportedModule: as `prune`.
    """
    return {
        _under(cut.layer, name): dict(indices) for cut in _cuts(model, plan) for name, indices in cut.indices.items()
    }


def moved_parameters(before: nn.Module, after: nn.Module) -> dict[str, str | None]:
    """Every parameter of `before` that has another name in `after`, which is `before` pruned: its new name, or None
    where it has left with the last head of its layer."""
    here, there = find_attention(before), find_attention(after)
    outputs = {
        _under(name, f"{layer.description.output}.bias"): _under(name, f"{there[name].description.output}.bias")
        for name, layer in here.items()
        if not there[name].num_heads
    }
    inside = [
        f"{name}." if name else "" for name, layer in here.items() if layer.num_heads and not there[name].num_heads
    ]
    names = [name for name, _ in before.named_parameters(remove_duplicate=False)]
    left = dict(after.named_parameters(remove_duplicate=False)).keys()
    gone = [name for name in names if name not in left and any(name.startswith(prefix) for prefix in inside)]
    return {name: outputs.get(name) for name in gone}


def plan_of(model: nn.Module) -> HeadPlan:
    """What has been pruned so far: the layers that plans have named, and the heads they still have.

    `plan_of(prune(model, plan)) == plan` for a model that was whole.
    """
    layers = find_attention(model).values()
    return HeadPlan({layer.name: layer.heads for layer in layers if lineage_of(layer.module) is not None})


def _copied(model: nn.Module) -> nn.Module:
    if why := why_not_copied(model):
        raise MhaError(why)
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a module of the user's may raise
        raise MhaError(
            f"the {type(model).__name__} can't be copied ({error}); drop what it remembers of earlier calls, or prune "
            "it with inplace=True"
        ) from error


@dataclass(frozen=True)
class _Cut:
    """What happens to one layer, with nothing left to decide."""

    layer: str
    indices: Mapping[str, Mapping[int, Tensor]]  # parameter -> dimension -> positions to keep
    selected: Mapping[str, Tensor]  # submodule -> features of its output to keep
    counts: Mapping[str, int]  # attribute -> its new value
    config: dict[str, int]  # field of the core's configuration -> its new value
    core: str
    becomes: type[nn.Module]  # the core's class
    lineage: Lineage
    emptied: Emptied | None  # for a layer that loses its last head
    linears: tuple[str, ...]  # submodules that put out features of heads
    output: str
    tensors: tuple[str, ...]  # parameters and buffers with heads that no linear holds

    def kept_of(self, part: str) -> Mapping[int, Tensor]:
        """Dimension -> positions to keep of a parameter, or of the output of a submodule that is selected from."""
        return {-1: self.selected[part]} if part in self.selected else self.indices.get(part, {})


def _under(layer: str, name: str) -> str:
    return f"{layer}.{name}" if layer else name


def _cuts(model: nn.Module, plan: HeadPlan) -> list[_Cut]:
    """What happens to each layer that the plan names and that has any head, all of it checked.

    Raises:
        PlanError, UnsupportedModule: as `prune`.
    """
    located = [(layer, heads) for layer, heads in locate(model, plan) if layer.num_heads]
    for layer, _ in located:
        _check_free(layer, why_held(unwrapped(model), layer.name))
    cuts = {layer.name: _resolve(layer, heads) for layer, heads in located}
    for layer, _ in located:
        _check_free(layer, layer.why_hidden(cuts[layer.name].becomes))
        for name in layer.description.selected:
            _check_free(layer, why_stuck(layer.module.get_submodule(name), name))
    if sharing := [layer for layer, _ in located if layer.shares]:
        _check_alike(sharing, cuts, find_attention(model))
        _select_once(sharing, cuts)
    return list(cuts.values())


def _check_free(layer: AttentionLayer, why: str | None) -> None:
    if why is not None:
        raise UnsupportedModule(f"layer {layer.name!r}: {why}")


def _check_alike(sharing: Sequence[AttentionLayer], cuts: Mapping[str, _Cut], layers: AttentionMap) -> None:
    """Whether what layers hold together loses the same in each of them; one that the plan does not name stays whole."""
    for layer in sharing:
        for part, places in layer.shares.items():
            for name, other_part in places:
                assert name is not None  # such layers are unsupported
                other = cuts.get(name) or _resolve(layers[name], tuple(range(layers[name].num_heads)))
                if not _same(cuts[layer.name].kept_of(part), other.kept_of(other_part)):
                    raise PlanError(_why_not_alike(cuts[layer.name], part, other, other_part, named=name in cuts))


def _same(one: Mapping[int, Tensor], other: Mapping[int, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(index, other[dim]) for dim, index in one.items())


def _why_not_alike(cut: _Cut, part: str, other: _Cut, other_part: str, *, named: bool) -> str:
    what = part if part == other_part else f"{part} (there {other_part})"
    unnamed = "" if named else ", which the plan does not name"
    return (
        f"layers {cut.layer!r} and {other.layer!r} share {what}, and it can't keep {_kept(cut)} for one and "
        f"{_kept(other)} for the other{unnamed}; name both in the plan, with the same heads"
    )


def _kept(cut: _Cut) -> str:
    lineage = cut.lineage
    groups = "" if lineage.groups == lineage.heads else f" (key/value groups {list(lineage.groups)})"
    return f"heads {list(lineage.heads)}{groups}"


def _select_once(sharing: Sequence[AttentionLayer], cuts: dict[str, _Cut]) -> None:
    """Leave a module whose output is selected from to the first of the layers that hold it."""
    seen: set[nn.Module] = set()
    for layer in sharing:
        modules = {name: layer.module.get_submodule(name) for name in cuts[layer.name].selected}
        first = {name: cuts[layer.name].selected[name] for name, module in modules.items() if module not in seen}
        cuts[layer.name] = replace(cuts[layer.name], selected=first)
        seen |= set(modules.values())


def _resolve(layer: AttentionLayer, heads: tuple[int, ...]) -> _Cut:
    groups = _surviving_groups(layer, heads)
    family = layer.description
    indices = {
        parameter: {dim: kept_positions(axis, layer.sizes, heads, groups) for dim, axis in axes.items()}
        for parameter, axes in _axes(layer).items()
    }
    lineage = Lineage(
        tuple(layer.heads[i] for i in heads),
        layer.lineage.total_heads,
        tuple(layer.groups[i] for i in groups),
        layer.lineage.total_groups,
    )
    sizes = {**layer.sizes, "h": len(groups), "g": len(heads) // len(groups) if groups else layer.sizes["g"]}
    counts, config = (
        {name: count(letters, sizes) for name, letters in numbers.items()} for numbers in (family.counts, family.config)
    )
    features = {
        name: kept_positions(_checked_selection(layer, name, axis), layer.sizes, heads, groups)
        for name, axis in family.selected.items()
    }
    return _Cut(
        layer.name,
        indices,
        features,
        counts,
        config,
        family.core,
        layer.class_with(len(heads)),
        lineage,
        None if heads else Emptied.of(layer),
        tuple(family.rows),
        family.output,
        tuple(family.tensors),
    )


def _axes(layer: AttentionLayer) -> dict[str, dict[int, Axis]]:
    """Every parameter that holds heads: where, checked against what is really there."""
    family = layer.description
    axes = {name: dict(tensor) for name, tensor in family.tensors.items()}
    rows, columns = (
        {name: axis for name, axis in linears.items() if part_of(layer.module, name, family) is not None}
        for linears in (family.rows, family.columns)
    )
    for linear, axis in rows.items():
        axes.setdefault(f"{linear}.weight", {})[_features_dim(layer, linear)] = axis
        axes.setdefault(f"{linear}.bias", {})[0] = axis
    for linear, axis in columns.items():
        axes.setdefault(f"{linear}.weight", {})[1 - _features_dim(layer, linear)] = axis
    present = {name: tensor for name, tensor in axes.items() if _is_there(layer, name)}
    for name, dims in present.items():
        for dim, axis in dims.items():
            _check_size(layer, name, dim, axis)
    return present


def _parameter(module: nn.Module, name: str) -> Tensor | None:
    """The parameter of that name, or buffer, as EVA's biases of keys are."""
    owner, _, attribute = name.rpartition(".")
    holder = module.get_submodule(owner)
    return holder._parameters.get(attribute, holder._buffers.get(attribute))


def _is_there(layer: AttentionLayer, name: str) -> bool:
    """Whether the module has that parameter, and it is one that can be sliced."""
    owner, _, attribute = name.rpartition(".")
    held, parameter = getattr(layer.module.get_submodule(owner), attribute, None), _parameter(layer.module, name)
    if held is None and parameter is None:
        return False
    plain = (nn.Parameter, Tensor)
    if parameter is None or type(parameter) not in plain or parameter.layout != torch.strided or parameter.is_quantized:
        kind = type(held)
        raise UnsupportedModule(
            f"layer {layer.name!r}: {name} is no plain dense parameter ({kind.__module__}.{kind.__qualname__}; "
            "parametrized, quantised or sharded?); turn it into one before pruning"
        )
    return True


def _surviving_groups(layer: AttentionLayer, heads: tuple[int, ...]) -> tuple[int, ...]:
    """The key/value groups that these heads (positions) still need; each must keep as many heads."""
    members: dict[int, list[int]] = {}
    for head in heads:
        members.setdefault(head // layer.sizes["g"], []).append(layer.heads[head])
    if len({len(group) for group in members.values()}) > 1:
        listing = ", ".join(f"group {layer.groups[group]}: {ids}" for group, ids in members.items())
        raise PlanError(
            f"layer {layer.name!r}: every key/value group that stays must keep the same number of query "
            f"heads, got {listing}; mha.choose returns only plans that do"
        )
    return tuple(members)


def _features_dim(layer: AttentionLayer, name: str) -> int:
    """The dimension of the linear's weight that counts its output features."""
    linear = layer.module.get_submodule(name)
    known = type(linear) in LINEARS or _is_a_models_own(linear) or is_conv1d(linear)
    if not known or _parameter(layer.module, f"{name}.weight") is None:
        raise UnsupportedModule(
            f"layer {layer.name!r}: {name} is a {type(linear).__name__} whose weight is not a plain "
            "parameter of nn.Linear (parametrized or quantised?); remove that before pruning"
        )
    return 1 if is_conv1d(linear) else 0


def _is_a_models_own(linear: nn.Module) -> bool:
    """A linear that one of transformers' models defines for itself, as Falcon does."""
    return isinstance(linear, nn.Linear) and type(linear).__module__.startswith("transformers.models.")


def _check_size(layer: AttentionLayer, name: str, dim: int, axis: Axis) -> None:
    parameter = _parameter(layer.module, name)
    assert parameter is not None
    expected, found = width(axis, layer.sizes), parameter.shape[dim]
    if expected != found:
        raise PlanError(
            f"layer {layer.name!r}: {name} has {found} positions along dimension {dim}, but "
            f"{layer.num_heads} heads of width {layer.head_dim} in {layer.num_kv_heads} key/value groups need "
            f"{expected}; weights and counts were changed by hand"
        )


def _checked_selection(layer: AttentionLayer, name: str, axis: Axis) -> Axis:
    expected, found = width(axis, layer.sizes), selected(layer.module.get_submodule(name))
    if found not in (None, expected):
        raise PlanError(
            f"layer {layer.name!r}: {name} returns {found} features, but {layer.num_heads} heads need {expected}; "
            "weights and counts were changed by hand"
        )
    return axis


def _sliced(module: nn.Module, cut: _Cut, made: dict[int, Sliced]) -> dict[str, Tensor]:
    """Parameter -> its new value, for those that lose something.

    Args:
        made: id of a parameter -> what became of it; what is sliced twice stays one.
    """
    parameters = {name: _parameter(module, name) for name in cut.indices}
    for name, indices in cut.indices.items():
        old = parameters[name]
        assert old is not None
        if id(old) not in made and any(len(index) < old.shape[dim] for dim, index in indices.items()):
            made[id(old)] = Sliced(f"{cut.layer}.{name}".strip("."), old, _taken(old, indices), indices)
    return {name: made[id(parameter)].new for name, parameter in parameters.items() if id(parameter) in made}


def _taken(parameter: Tensor, indices: Mapping[int, Tensor]) -> Tensor:
    tensor = taken(parameter, indices)
    return nn.Parameter(tensor, parameter.requires_grad) if isinstance(parameter, nn.Parameter) else tensor


def _apply(module: nn.Module, cut: _Cut, parameters: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        owner, _, attribute = name.rpartition(".")
        holder: Any = module.get_submodule(owner)
        setattr(holder, attribute, parameter)
        if isinstance(holder, nn.Linear) and attribute == "weight":
            holder.out_features, holder.in_features = parameter.shape
        elif is_conv1d(holder) and attribute == "weight":
            holder.nx, holder.nf = parameter.shape
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
