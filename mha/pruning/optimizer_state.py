"""Cuts what an optimizer remembers of parameters down to the entries of them that stay."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from mha.pruning.indices import Indices, taken
from mha.runtime.nests import tensors
from mha.values.errors import OptimizerError


@dataclass(frozen=True)
class Sliced:
    """A parameter that is replaced by a smaller one.

    Attributes:
        name: its name in the model.
        old: the parameter.
        new: the one that replaces it.
        indices: which entries of `old` are in `new`.
    """

    name: str
    old: Tensor
    new: Tensor
    indices: Indices


def plain(optimizer: Any) -> Optimizer:
    """The torch optimizer inside wrappers that hold it as `optimizer`, as accelerate's does; a bare one as it is.

    Raises:
        OptimizerError: it is no torch optimizer, or one that remembers all parameters in one vector (LBFGS).
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
    """A copy of an optimizer's state of one parameter, cut down to the entries of the parameter that stay.

    Tensors in the parameter's shape are sliced, anything else is copied whole, as step counts are.

    Args:
        name: the parameter's name, for the error.
        state: what `optimizer.state` has for the parameter.
        indices: which entries of the parameter stay; empty for all.

    Raises:
        OptimizerError: entries are lost, and a tensor of several numbers has another shape than the parameter
            (factored or flattened).
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


class Following:
    """Optimizers that go on with new parameters in place of the old.

    Making a `Following` prepares and checks everything and changes nothing; `follow` then can't fail. Parameter groups,
    their lists of parameters and `optimizer.state` stay the same objects, so that schedules and trainers keep them.

    Args:
        optimizers: one optimizer, or a sequence of them.
        sliced: the parameters that are replaced.
        before: all parameters that the model has before it is pruned.

    Raises:
        OptimizerError: no torch optimizer, or LBFGS; state that can't be sliced; an optimizer that holds none of the
            model's parameters; or a parameter to be replaced that has hooks on its gradient.
    """

    def __init__(self, optimizers: Any, sliced: Sequence[Sliced], before: Iterable[Tensor]) -> None:
        self._sliced = {id(parameter.old): parameter for parameter in sliced}
        self._before = {id(parameter) for parameter in before}
        several = optimizers if isinstance(optimizers, Sequence) else [optimizers]
        self._states = {plain(optimizer): self._state(plain(optimizer)) for optimizer in several}
        if hooked := [
            parameter.name for parameter in sliced if getattr(parameter.old, "_post_accumulate_grad_hooks", None)
        ]:
            raise OptimizerError(f"{hooked[0]} has hooks on its gradient, which would stay behind; remove them first")

    def _state(self, optimizer: Optimizer) -> dict[Tensor, dict[str, Any]]:
        """New parameter -> the optimizer's sliced state of it, for replaced parameters that the optimizer has state of.

        Raises:
            OptimizerError: the optimizer holds none of the model's parameters, or has state that can't be sliced.
        """
        if not any(id(parameter) in self._before for parameter in _parameters(optimizer)):
            raise OptimizerError(
                f"the {type(optimizer).__name__} holds none of the model's parameters (copies of them in another "
                "precision?); give the one that trains this model"
            )
        states = {}
        for parameter in _parameters(optimizer):
            if (sliced := self._sliced.get(id(parameter))) is not None and parameter in optimizer.state:
                states[sliced.new] = sliced_state(sliced.name, optimizer.state[parameter], parameter, sliced.indices)
        return states

    def follow(self, after: Iterable[Tensor]) -> None:
        """Let the optimizers go on with the new parameters, and without those that have left the model.

        Gradients of the old parameters are sliced and given to the new ones.

        Args:
            after: all parameters of the pruned model.
        """
        present = {id(parameter) for parameter in after}
        gone = (self._before | {id(sliced.new) for sliced in self._sliced.values()}) - present
        for sliced in self._sliced.values():
            if sliced.old.grad is not None:
                sliced.new.grad = taken(sliced.old.grad, sliced.indices)
        for optimizer, state in self._states.items():
            for parameter in [parameter for parameter in _parameters(optimizer) if id(parameter) in gone]:
                optimizer.state.pop(parameter, None)
            optimizer.state.update({new: values for new, values in state.items() if id(new) in present})
            for group in optimizer.param_groups:
                new = [self._replaced(parameter) for parameter in group["params"]]
                group["params"][:] = [parameter for parameter in new if id(parameter) not in gone]

    def _replaced(self, parameter: Tensor) -> Tensor:
        """The parameter that takes the place of this one; this one itself where it was not sliced."""
        sliced = self._sliced.get(id(parameter))
        return parameter if sliced is None else sliced.new


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of all the optimizer's groups, in their order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _holds_entries(value: Any) -> bool:
    """Whether a value of an optimizer's state holds a tensor of more than one number."""
    return any(tensor.numel() > 1 for tensor in tensors(value, containers=(tuple, list)))
