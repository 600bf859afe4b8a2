"""What a criterion is: a function of the calibration data, what it needs, and whether its scores compare layers."""

import inspect
import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from mha.importance.running.calibration import Calibration
from mha.importance.running.scored import Scored
from mha.values.errors import CalibrationError

Needs = Literal["nothing", "context", "attention weights", "outputs", "gradients"]
Function = Callable[..., Mapping[str, Tensor] | Scored]

DEFAULT = "default"  # what `mha.score` calls the criterion that it takes unless told otherwise
# The parameters of `mha.score`, which therefore never reach a criterion
TAKEN = {"model", "batches", "loss", "criterion", "seed", "rounds", "examples", "progress", "journal", "cluster"}


@dataclass(frozen=True)
class Criterion:
    """A way to score heads.

    Attributes:
        name: what `mha.score` is given to choose it.
        needs: "nothing" beyond the weights, the heads' "context" (what the output projections read), the "attention
            weights", the model's "outputs" (a loss to evaluate), or its "gradients".
        function: (calibration, **options) -> layer name -> (h,), larger = keep, or a `Scored`, which holds that.
        comparable: whether scores of different layers are in one currency, that of the loss; else they say which head
            of a layer to keep, not which layer.
        additive: whether the function reads the batches by `Calibration.summed` and `mean_loss` alone; a cluster's
            workers then add them up shard by shard. Else one worker runs the whole function.
        unless: the option that, if it is given and true, makes it read the batches otherwise; "" for none.

    Raises:
        CalibrationError: an attribute is not as described; says which, and what was expected.
    """

    name: str
    needs: Needs
    function: Function
    comparable: bool = True
    additive: bool = False
    unless: str = ""

    def __post_init__(self) -> None:
        check_description(self.name, self.needs, self.comparable, self.additive)
        _check_function(self.name, self.function)
        if self.unless and self.unless not in self.options:
            raise CalibrationError(
                f"criterion {self.name!r}: unless is the name of one of its options, {', '.join(self.options)}; got "
                f"{self.unless!r}"
            )

    @property
    def options(self) -> dict[str, Any]:
        """The options that the function takes, by name, with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {
            parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
        }

    @property
    def summary(self) -> str:
        """What the criterion measures, in a line: the first one of the function's docstring."""
        lines = (inspect.getdoc(self.function) or "").splitlines()
        return lines[0] if lines else "(its function has no docstring)"

    def adds_up(self, options: Mapping[str, Any]) -> bool:
        """Whether, with these options, what it needs of the batches adds up over shards of them."""
        return self.additive and not {**self.options, **options}.get(self.unless, False)

    @property
    def on_cluster(self) -> str:
        """What `mha.score(..., cluster=client)` has the workers do, in a few words."""
        if self.needs == "nothing":
            return "nothing: no batches are read"
        if not self.additive:
            return "one worker computes all, as here"
        return "shards are added up" + (f"; with `{self.unless}`, one worker computes all" if self.unless else "")

    def scored(self, calibration: Calibration, options: Mapping[str, Any]) -> Scored:
        """What the function returns for this calibration and these options; a mapping of scores becomes a `Scored`.

        Raises:
            CalibrationError: it returned no score for some head, scores of other layers, or no mapping of tensors; or
                the function itself raised this error.
        """
        returned = self.function(calibration, **options)
        scored = returned if isinstance(returned, Scored) else Scored(returned)
        self._check_rows(scored.rows, calibration)
        return scored

    def _check_rows(self, rows: Any, calibration: Calibration) -> None:
        """Check that the scores which the function returned are layer name -> (h,) for all the calibration's layers.

        Raises:
            CalibrationError: they are no mapping, or of other layers, or one is no tensor with a score for each head.
        """
        if not isinstance(rows, Mapping):
            raise CalibrationError(
                f"criterion {self.name!r} returned {type(rows).__name__}; expected a mapping of layer name to scores "
                "(h,), or a Scored"
            )
        if rows.keys() != calibration.layers.keys():
            raise CalibrationError(
                f"criterion {self.name!r} returned scores of the layers {list(rows)}; expected all of "
                f"{list(calibration.layers)}"
            )
        for name, layer in calibration.layers.items():
            row = rows[name]
            if not isinstance(row, Tensor) or row.shape != (layer.num_heads,):
                came = f"shape {tuple(row.shape)}" if isinstance(row, Tensor) else type(row).__name__
                raise CalibrationError(
                    f"criterion {self.name!r}, layer {name!r}: expected a tensor of shape ({layer.num_heads},), a "
                    f"score for every head that the layer has, got {came}"
                )


def check_description(name: Any, needs: Any, comparable: Any, additive: Any = False) -> None:
    """Check a criterion's attributes other than its function.

    Raises:
        CalibrationError: the name is no Python identifier, a keyword or "default"; `needs` is none of the five that
            `Criterion` lists; or `comparable` or `additive` is no bool.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name == DEFAULT:
        raise CalibrationError(
            f'the name of a criterion is a Python identifier, such as "my_criterion", and not {DEFAULT!r}; got {name!r}'
        )
    if needs not in get_args(Needs):
        raise CalibrationError(
            f"criterion {name!r}: needs is one of {', '.join(map(repr, get_args(Needs)))}; got {needs!r}"
        )
    if not isinstance(comparable, bool):
        raise CalibrationError(
            f"criterion {name!r}: comparable says whether scores of different layers compare, True or False; got "
            f"{comparable!r}"
        )
    if not isinstance(additive, bool):
        raise CalibrationError(
            f"criterion {name!r}: additive says whether it reads batches by Calibration.summed and mean_loss alone, "
            f"True or False; got {additive!r}"
        )


def _check_function(name: str, function: Any) -> None:
    """Check that the function can be called as (calibration, **options).

    Raises:
        CalibrationError: it can't be called, does not take the calibration as its only positional parameter, takes
            *args or **kwargs, or has an option without a default or of the name of a parameter of `mha.score`.
    """
    if not callable(function):
        raise CalibrationError(f"criterion {name!r}: expected a function (calibration, *, options), got {function!r}")
    positional: list[inspect.Parameter] = []
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise CalibrationError(
                f"criterion {name!r}: its function takes {parameter}; name every option, since mha.score refuses those "
                "that a criterion does not have"
            )
        (options if parameter.kind is parameter.KEYWORD_ONLY else positional).append(parameter)
    if len(positional) != 1:
        raise CalibrationError(
            f"criterion {name!r}: its function takes the calibration as its only positional parameter, and options "
            f"after a *; got {[parameter.name for parameter in positional]}"
        )
    for option in options:
        if option.default is option.empty:
            raise CalibrationError(f"criterion {name!r}: option {option.name!r} has no default; give it one")
        if option.name in TAKEN:
            raise CalibrationError(
                f"criterion {name!r}: {option.name!r} is a keyword of mha.score itself and never reaches the "
                "criterion; call the option something else (the calibration has what mha.score was given)"
            )
