"""The criteria by name, and the one call that scores with any of them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from mha.errors import CalibrationError, UnsupportedModule
from mha.families import find_attention
from mha.families.registry import HOW_TO_REGISTER
from mha.heads import HeadScores
from mha.importance.calibration import Calibration, Loss, at_rest

Needs = Literal["nothing", "outputs", "gradients", "attention weights"]
Function = Callable[..., Mapping[str, Tensor]]

DEFAULT = "leave_one_out"


@dataclass(frozen=True)
class Criterion:
    """A way to score heads.

    Attributes:
        needs: "nothing" beyond the weights, the model's "outputs" (a loss to evaluate), its "gradients", or
            its "attention weights".
        function: (calibration, **options) -> layer name -> (h,), larger = keep.
    """

    name: str
    needs: Needs
    function: Function

    @property
    def options(self) -> tuple[str, ...]:
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


_CRITERIA: dict[str, Criterion] = {}


def criterion(name: str, *, needs: Needs) -> Callable[[Function], Function]:
    """Register the decorated function under that name."""

    def register(function: Function) -> Function:
        _CRITERIA[name] = Criterion(name, needs, function)
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


def score(
    model: nn.Module,
    batches: Sequence[Any] | None,
    loss: Loss | None,
    criterion: str = "default",
    *,
    seed: int = 0,
    **options: Any,
) -> HeadScores:
    """Score every attention head of the model; larger = keep.

    The model runs in eval mode and is left exactly as it was, also after an error: weights, gradients,
    modes, hooks and the random state. The result depends on nothing but the arguments.

    Args:
        batches: calibration batches, anything that can be read more than once; None where the criterion
            needs no data.
        loss: (model, batch) -> scalar, the mean over the batch's examples; None where it needs no data.
        criterion: one of `criteria()`.
        seed: for criteria that draw at random.
        options: those of the criterion, as keyword arguments.

    Raises:
        CalibrationError: an unknown criterion or option, no batches, a loss that is not a finite scalar or does
            not depend on the model.
        UnsupportedModule: the model has no attention of a known family.
    """
    chosen = describe(criterion)
    if unknown := set(options) - set(chosen.options):
        raise CalibrationError(
            f"criterion {chosen.name!r} has no option {', '.join(sorted(unknown))}; "
            f"it takes {', '.join(chosen.options) or 'none'}"
        )
    layers = find_attention(model)
    if not layers:
        listing = "".join(f"\n  {name!r}: {why}" for name, why in layers.unsupported.items())
        raise UnsupportedModule(f"the model has no attention of a known family; {HOW_TO_REGISTER}{listing}")
    calibration = Calibration(model, layers, batches, loss, seed)
    if chosen.needs != "nothing":
        calibration.check()
    with at_rest(model, seed):
        rows = chosen.function(calibration, **options)
    return HeadScores(
        {name: rows[name] for name in layers},
        groups={name: layer.num_kv_heads for name, layer in layers.items()},
        heads={name: layer.heads for name, layer in layers.items()},
    )
