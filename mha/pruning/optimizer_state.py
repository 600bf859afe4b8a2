"""What an optimizer remembers of parameters, cut down with them."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from mha.values.errors import OptimizerError
from mha.values.layout import take

Indices = Mapping[int, Tensor]  # dimension -> positions


@dataclass(frozen=True)
class Sliced:
    """A parameter, what replaces it, and what that keeps of it."""

    name: str
    old: Tensor
    new: Tensor
    indices: Indices


def plain(optimizer: Any) -> Optimizer:
    """The optimizer that accelerate wrapped, or the one given.

    Raises:
        OptimizerError: it is none, or one that keeps a history of all parameters in one.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise OptimizerError(f"expected a torch.optim.Optimizer, or a sequence of them, got {type(optimizer).__name__}")
    if isinstance(optimizer, LBFGS):
        raise OptimizerError(
            "LBFGS remembers all parameters in one vector, which can't be sliced; start a new optimizer"
        )
    return optimizer


def sliced_state(name: str, state: Mapping[str, Any], parameter: Tensor, indices: Indices) -> dict[str, Any]:
    """What is remembered of the part of the parameter that stays.

    Raises:
        OptimizerError: something of another shape than the parameter's (factored or flattened).
    """
    sliced: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            sliced[key] = taken(value.detach().clone(), indices)
        elif indices and _holds_entries(value):
            raise OptimizerError(
                f"{name}: the optimizer's {key!r} has not the parameter's shape {tuple(parameter.shape)}, so it is not "
                "known which of it belongs to the heads that stay; start a new optimizer"
            )
        else:
            sliced[key] = copy.deepcopy(value)
    return sliced


def taken(tensor: Tensor, indices: Indices) -> Tensor:
    """The tensor at these positions of each dimension."""
    for dim, index in indices.items():
        tensor = take(tensor, dim, index)
    return tensor


class Following:
    """Optimizers that will go on with new parameters in place of the old: prepared, then done at once.

    Groups, their lists of parameters and the state stay the same objects, so that schedules and trainers keep them.

    Args:
        optimizers: one, or a sequence of them.
        before: the parameters that the model has now.

    Raises:
        OptimizerError: state that can't be sliced, or an optimizer that does not train this model.
    """

    def __init__(self, optimizers: Any, sliced: Sequence[Sliced], before: Iterable[Tensor]) -> None:
        self._sliced = {id(one.old): one for one in sliced}
        self._before = {id(parameter) for parameter in before}
        given = optimizers if isinstance(optimizers, Sequence) else [optimizers]
        self._states = {plain(one): self._state(plain(one)) for one in given}
        if hooked := [one.name for one in sliced if getattr(one.old, "_post_accumulate_grad_hooks", None)]:
            raise OptimizerError(f"{hooked[0]} has hooks on its gradient, which would stay behind; remove them first")

    def _state(self, optimizer: Optimizer) -> dict[Tensor, dict[str, Any]]:
        """New parameter -> what is remembered of it."""
        if not any(id(parameter) in self._before for parameter in _parameters(optimizer)):
            raise OptimizerError(
                f"the {type(optimizer).__name__} holds none of the model's parameters (copies of them in another "
                "precision?); give the one that trains this model"
            )
        ours = [self._sliced[id(parameter)] for parameter in _parameters(optimizer) if id(parameter) in self._sliced]
        remembered = [one for one in ours if one.old in optimizer.state]
        return {one.new: sliced_state(one.name, optimizer.state[one.old], one.old, one.indices) for one in remembered}

    def follow(self, after: Iterable[Tensor]) -> None:
        """Go on with these parameters of the model; those that left it leave the optimizers too."""
        present = {id(parameter) for parameter in after}
        gone = (self._before | {id(one.new) for one in self._sliced.values()}) - present
        for one in self._sliced.values():
            if one.old.grad is not None:
                one.new.grad = taken(one.old.grad, one.indices)
        for optimizer, state in self._states.items():
            for parameter in [parameter for parameter in _parameters(optimizer) if id(parameter) in gone]:
                optimizer.state.pop(parameter, None)
            optimizer.state.update({new: values for new, values in state.items() if id(new) in present})
            for group in optimizer.param_groups:
                new = [self._replaced(parameter) for parameter in group["params"]]
                group["params"][:] = [parameter for parameter in new if id(parameter) not in gone]

    def _replaced(self, parameter: Tensor) -> Tensor:
        one = self._sliced.get(id(parameter))
        return parameter if one is None else one.new


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _holds_entries(value: Any) -> bool:
    """Whether it holds more than a number."""
    if isinstance(value, list | tuple):
        return any(_holds_entries(one) for one in value)
    return isinstance(value, Tensor) and value.numel() > 1
