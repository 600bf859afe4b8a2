"""The criteria that are known, by name: those of the package, and whatever else has been registered."""

from collections.abc import Callable
from typing import Any, TypeVar

from mha.importance.registry.criterion import DEFAULT, Criterion, Function, Needs, check_description
from mha.importance.registry.listing import Criteria
from mha.values.errors import CalibrationError

DEFAULT_CRITERION = "leave_one_out"

F = TypeVar("F", bound=Function)

_CRITERIA: dict[str, Criterion] = {}


def register_criterion(
    name: str, *, needs: Needs, comparable: bool = True, additive: bool = False, unless: str = ""
) -> Callable[[F], F]:
    """Make the decorated function a criterion, which `mha.score` takes by this name.

    The criteria of this package are registered in the same way, one in each file of `mha/importance/criteria`.

    The function is called as `function(calibration, **options)`. Its `mha.importance.Calibration` holds the model, its
    attention layers and the batches, and runs the model over them with gates on the heads. It returns layer name ->
    (h,) for every layer, one score for every head that the layer has, larger = keep; or an `mha.importance.Scored`,
    which also holds standard errors and the like. Its keyword-only parameters, which have defaults, are the options
    that `mha.score` passes on. The first line of its docstring is what `mha.criteria()` prints of it.

    Args:
        name: a Python identifier that no other criterion has.
        needs: "nothing" beyond the weights, the heads' "context" (what the output projections read), the "attention
            weights", the model's "outputs" (a loss to evaluate), or its "gradients". All but "nothing" make
            `mha.score` ask for batches and a loss.
        comparable: whether scores of different layers are in one currency, that of the loss. Where they are not,
            `mha.choose` ranks heads within their layers.
        additive: whether the function reads the batches by the calibration's `mean_loss` and `summed` alone.
            `mha.score(..., cluster=client)` then has workers add up shard by shard; otherwise one of them runs the
            function, on all batches.
        unless: the name of an option that makes it read them in another way when it is true.

    Raises:
        CalibrationError: the name is taken or no identifier, `needs` is unknown, or the function has other
            parameters. A function of the same module and name replaces its earlier self, as when a notebook's
            cell runs again.

    Example:
        >>> @mha.register_criterion("half_gate", needs="outputs")
        ... def half_gate(calibration, *, gate=0.5):
        ...     "What the loss rises by when the head speaks at a part of its strength."
        ...     dense, scores = calibration.mean_loss(), calibration.zeros()
        ...     for layer, position in calibration.present():
        ...         gates = torch.ones(calibration.layers[layer].num_heads)
        ...         gates[position] = gate
        ...         scores[layer][position] = calibration.mean_loss({layer: gates}) - dense
        ...     return scores
        >>> model = mha.MultiHeadAttention.square(8, num_heads=2)
        >>> batches = [torch.randn(4, 5, 8)]
        >>> scores = mha.score(model, batches, lambda m, x: (m(x, x, x) - x).square().mean(), "half_gate", gate=0.25)
        >>> scores[""].shape  # "" is the model itself, which is a layer here
        torch.Size([2])
    """
    check_description(name, needs, comparable, additive)

    def register(function: F) -> F:
        criterion = Criterion(name, needs, function, comparable, additive, unless)
        known = _CRITERIA.get(name)
        if known is not None and not _is_defined_again(known.function, function):
            raise CalibrationError(
                f"criterion {name!r} is registered already, by {_full_name(known.function)}; choose another name"
            )
        _CRITERIA[name] = criterion
        return function

    return register


def criteria() -> Criteria:
    """The names of all criteria, in alphabetical order: a tuple, which prints as a table of what they are.

    The table says for each what it needs, whether its scores compare heads of different layers, which options it takes
    and with which defaults, and what it measures.

    Example:
        >>> "taylor" in mha.criteria()
        True
        >>> print(mha.criteria())  # doctest: +ELLIPSIS
        name...needs...compares layers...options
        confidence...attention weights...no...none
            The mean over rows of the largest attention weight: heads that are sure where to look are kept.
        ...
    """
    return Criteria.of([_CRITERIA[name] for name in sorted(_CRITERIA)], DEFAULT_CRITERION)


def describe(name: str) -> Criterion:
    """The criterion of that name; "default" is the one that `score` uses unless told otherwise.

    Raises:
        CalibrationError: no criterion of that name is registered; says which are.
    """
    try:
        return _CRITERIA[DEFAULT_CRITERION if name == DEFAULT else name]
    except KeyError:
        raise CalibrationError(f"unknown criterion {name!r}; there are {', '.join(criteria())}") from None


def _is_defined_again(known: Function, function: Function) -> bool:
    """Whether both are the same function, or have the same full name, as where a notebook's cell runs again.

    Lambdas, and objects without a qualified name, are not compared by name.
    """
    nameless = "<lambda>" in _full_name(function) or not hasattr(function, "__qualname__")
    return known is function or (not nameless and _full_name(known) == _full_name(function))


def _full_name(function: Function) -> str:
    """Module and qualified name, joined by a dot, of a function, or of the class of another callable object."""
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
