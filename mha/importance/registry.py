"""The criteria by name: each is a file of `criteria/`, which registers its function here."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from mha.importance.running.calibration import Calibration
from mha.importance.running.scored import Scored
from mha.values.errors import CalibrationError

Needs = Literal["nothing", "context", "attention weights", "outputs", "gradients"]
Function = Callable[..., Mapping[str, Tensor] | Scored]

DEFAULT = "leave_one_out"


@dataclass(frozen=True)
class Criterion:
    """A way to score heads.

    Attributes:
        needs: "nothing" beyond the weights, the heads' "context" (what the output projections read), the "attention
            weights", the model's "outputs" (a loss to evaluate), or its "gradients".
        function: (calibration, **options) -> layer name -> (h,), larger = keep, or a `Scored`, which holds that.
        comparable: whether scores of different layers are in one currency, that of the loss; else they say which head
            of a layer to keep, not which layer.
    """

    name: str
    needs: Needs
    function: Function
    comparable: bool = True

    @property
    def options(self) -> tuple[str, ...]:
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)

    def scored(self, calibration: Calibration, options: Mapping[str, Any]) -> Scored:
        """What the function finds."""
        found = self.function(calibration, **options)
        return found if isinstance(found, Scored) else Scored(found)


_CRITERIA: dict[str, Criterion] = {}


def criterion(name: str, *, needs: Needs, comparable: bool = True) -> Callable[[Function], Function]:
    """Register the decorated function under that name."""

    def register(function: Function) -> Function:
        _CRITERIA[name] = Criterion(name, needs, function, comparable)
        return function

    return register


def criteria() -> tuple[str, ...]:
    """The names of all criteria."""
    return tuple(sorted(_CRITERIA))


def describe(name: str) -> Criterion:
    """The criterion of that name; "default" is the one that `score` uses unless told otherwise.

    Raises:
        CalibrationError: there is none.
    """
    try:
        return _CRITERIA[DEFAULT if name == "default" else name]
    except KeyError:
        raise CalibrationError(f"unknown criterion {name!r}; there are {', '.join(criteria())}") from None
