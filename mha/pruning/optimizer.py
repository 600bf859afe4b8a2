"""Optimizers that outlive pruning: the state of the rows and columns that stay is kept."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from mha.families import find_attention
from mha.families.base.wrappers import unwrapped
from mha.pruning.indices import Indices
from mha.pruning.optimizer_state import plain, sliced_state
from mha.pruning.resolve import entries_of, moved_parameters, resolve
from mha.values.errors import OptimizerError
from mha.values.plan import HeadPlan

SomeOptimizer = TypeVar("SomeOptimizer", bound=Optimizer)


def slice_optimizer(optimizer: SomeOptimizer, before: nn.Module, after: nn.Module) -> SomeOptimizer:
    """An optimizer of the same class and options over `after`'s parameters, with the state of what stayed.

    `after` is `before` pruned (not in place). Whatever the optimizer keeps in the shape of a parameter (Adam's moments,
    SGD's momentum) is sliced as the parameter was; step counts are kept; what left with a layer's last head leaves its
    parameter group. So training goes on as it would have with the removed heads masked. Parameter groups, their
    options and their order stay. The given optimizer is left as it is; its hooks stay with it, and a learning-rate
    schedule has to be made anew for the new one. If accelerate wraps the optimizer, the inner one is sliced: prepare
    the slice anew. (`prune(…, inplace=True, optimizer=…)` keeps the optimizer itself.)

    Raises:
        OptimizerError: no torch optimizer, or LBFGS; a parameter that is not one of `before`'s; an `after` with other
            layers, parameters or shapes than pruning `before` gives; or state in another shape than its parameter's
            (factored or flattened).
        PlanError: `after` has heads that `before` has not.
        UnsupportedModule: a layer that has lost heads holds a projection that can't be sliced.

    Example:
        >>> before = nn.ModuleDict({"attention": mha.MultiHeadAttention.square(8, 4)})
        >>> optimizer = torch.optim.AdamW(before.parameters(), lr=1e-3)
        >>> after = mha.prune(before, mha.HeadPlan({"attention": (0, 3)}))
        >>> sliced = mha.slice_optimizer(optimizer, before, after)
        >>> sliced.param_groups[0]["params"][0] is after["attention"].W_q.weight
        True
    """
    optimizer = cast(SomeOptimizer, plain(optimizer))
    before, after = unwrapped(before), unwrapped(after)
    names = {id(parameter): name for name, parameter in before.named_parameters()}
    new = dict(after.named_parameters(remove_duplicate=False))
    cuts = resolve(before, _plan_between(before, after))
    indices, moved = entries_of(cuts), moved_parameters(cuts, before, after)
    groups: list[dict[str, Any]] = []
    state: dict[Tensor, dict[str, Any]] = {}
    for number, group in enumerate(optimizer.param_groups):
        kept = []
        for parameter in group["params"]:
            name = _name(names, parameter, number)
            name_after = moved.get(name, name)
            if name_after is None:  # it has left with the last head of its layer
                continue
            sliced = _counterpart(name_after, parameter, new, indices.get(name, {}))
            kept.append(sliced)
            if parameter in optimizer.state:
                state[sliced] = sliced_state(name, optimizer.state[parameter], parameter, indices.get(name, {}))
        groups.append(
            {**copy.deepcopy({key: value for key, value in group.items() if key != "params"}), "params": kept}
        )
    result = type(optimizer).__new__(type(optimizer))
    result.__setstate__(
        {"defaults": copy.deepcopy(optimizer.defaults), "state": _like(optimizer, state), "param_groups": groups}
    )
    return result


def _plan_between(before: nn.Module, after: nn.Module) -> HeadPlan:
    """The plan by which `before` was pruned to `after`: the heads in `after` of each layer whose heads differ.

    Raises:
        OptimizerError: the two do not have attention layers of the same names.
    """
    layers, left = find_attention(before), find_attention(after)
    if layers.keys() != left.keys():
        raise OptimizerError(
            f"`after` is not `before` pruned: only one of the two has the layers {sorted(layers.keys() ^ left.keys())}"
        )
    return HeadPlan({name: left[name].heads for name, layer in layers.items() if left[name].heads != layer.heads})


def _name(names: Mapping[int, str], parameter: Tensor, group: int) -> str:
    """The parameter's name in `before`.

    Args:
        names: id of a parameter of `before` -> its name.
        group: the index of the optimizer's parameter group that holds it, for the error.

    Raises:
        OptimizerError: the parameter is not one of `before`'s.
    """
    if id(parameter) not in names:
        raise OptimizerError(
            f"group {group} of the optimizer holds a parameter of shape {tuple(parameter.shape)} that is not one of "
            "`before`'s: give the model that it has trained, as it was (prune it with inplace=False)"
        )
    return names[id(parameter)]


def _counterpart(name: str, old: Tensor, new: Mapping[str, nn.Parameter], indices: Indices) -> nn.Parameter:
    """The parameter of `after` that the parameter `old` of `before` has become.

    Args:
        name: the name in `after`.
        new: all parameters of `after`, by name.
        indices: which entries of `old` stay.

    Raises:
        OptimizerError: `after` has no parameter of that name, or one of another shape than the entries that stay.
    """
    if name not in new:
        raise OptimizerError(f"{name} is in `before` and not in `after`; `after` must be `before` pruned")
    expected = tuple(len(indices[dim]) if dim in indices else size for dim, size in enumerate(old.shape))
    if tuple(new[name].shape) != expected:
        raise OptimizerError(
            f"{name} has shape {tuple(new[name].shape)} in `after`; pruning `before` to the same heads gives {expected}"
        )
    return new[name]


def _like(optimizer: Optimizer, state: Mapping[Tensor, dict[str, Any]]) -> Any:
    """A new mapping of the type of `optimizer.state` (often a defaultdict), with the entries of `state` alone."""
    mapping = copy.copy(optimizer.state)
    mapping.clear()
    mapping.update(state)
    return mapping
