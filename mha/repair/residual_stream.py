"""What each linear layer should lead to in the pruned model: its goal, found in the dense model.

A layer that writes to a residual stream is not asked to put out what it puts out in the dense model. It is asked for
what is missing then, so that the stream holds what it holds in the dense model when the next module reads it:

    dense model                                    pruned model, repaired up to this layer

    stream --+---------------(+)--> value          stream' --+---------------(+)--> stream''
             |                ^       |                      |                ^       |
             +--> attention --+       v                      +--> attention --+       v
                            output   reader                                 output'  reader

The reader (a norm, say) reads `value` in the dense model and `stream''` in the pruned one. What others put into the
stream there is stream'' - output', so the layer should put out value - (stream'' - output'): that makes up for what
earlier layers left undone, too. A layer after which no reader is found should put out what it does in the dense model.

Whether a layer's output is added to the stream is seen by gradients: if it is, what `forward` returns has the same
gradient by the output as by what the reader reads.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mha.repair.observe import Run, all_finite, gradients, observed, position_weights
from mha.repair.token_weights import Read, further_weights, spread, tokens_in
from mha.values.errors import CalibrationError

SHOWN = 5  # rows that an error names
SAME = 1e-3  # relative difference of gradients up to which the stream after a layer is its output plus something

Seen = Callable[[Run, Tensor | None], object]  # (a run of a layer, the gradient by what it puts out)


@dataclass(frozen=True, kw_only=True)
class Sought:
    """The layers of the dense model for which goals are sought.

    Attributes:
        outputs: attention's output projections; where they do not write to a residual stream, the goal is their output.
        others: other linear layers, likewise.
        silent: modules that do not run in the pruned model; the reader can't be one of them.
    """

    outputs: Sequence[str]
    others: Sequence[str] = ()
    silent: Collection[nn.Module] = ()


@dataclass
class Goal:
    """What a linear layer should lead to.

    Attributes:
        reader: the module that reads the residual stream after the layer's output was added to it; None where
            there is none, and the goal is the layer's own output.
        weights: number of a batch -> for each run of the layer how much every token of its output counts, (...).
    """

    reader: str | None = None
    weights: Mapping[int, list[Tensor]] = field(default_factory=dict)


def goals_of(
    model: nn.Module,
    sought: Sought,
    batches: Sequence[Any],
    forward: Callable[[nn.Module, tuple[int, Any]], Any],
    *,
    seen: Seen | None = None,
    enough: int | None = None,
) -> dict[str, Goal]:
    """Layer -> its goal, in the order in which layers first run.

    A token's weight is how much what `forward` returns depends on the layer's output there (`position_weights`).

    Args:
        model: the dense model.
        forward: (model, (number, batch)) runs the model and returns what matters of its output.
        seen: called with every run of a layer that is sought, and the gradient by its output.
        enough: of how many tokens weights are read, at least, if that tells which tokens of further batches count
            (`further_weights`); None reads all batches.

    Raises:
        CalibrationError: `forward` ran none of the output projections, or what is returned is NaN, or what is read
            or put out after a layer that gets a goal is NaN or infinite.
    """
    goals: dict[str, Goal] = {}
    read: Read = {}
    for number in range(len(batches)) if enough is None else spread(len(batches)):
        if enough is not None and tokens_in(read) >= enough:
            if (further := further_weights(batches, read)) is not None:
                read |= further
                break
            enough = None
        found, weights = weights_of(model, sought, batches[number], number, forward, seen)
        if not read:
            check_ran(found, sought.outputs)
            goals = found
        read[number] = {name: weights.get(name, []) for name in goals}
    for name, goal in goals.items():
        goal.weights = {number: of_batch[name] for number, of_batch in sorted(read.items())}
    return goals


def weights_of(
    model: nn.Module,
    sought: Sought,
    batch: Any,
    number: int,
    forward: Callable[[nn.Module, tuple[int, Any]], Any],
    seen: Seen | None,
) -> tuple[dict[str, Goal], dict[str, list[Tensor]]]:
    """Run the model on the batch of this number; nothing of the pass is held afterwards.

    Returns:
        Layer -> its goal by this batch alone, without weights; and how much every token counts, for each of its runs.
    """
    names = [*sought.outputs, *sought.others]
    with observed(model, names, (number, batch), forward, sought.silent) as (runs, returned):
        _check_returned(returned, number)
        by_output, by_read = gradients(runs, returned, number)
    weights: dict[str, list[Tensor]] = {}
    for run, gradient in zip(runs, by_output, strict=True):
        check_finite(run.name, number, *(tensor for tensor in (run.output, run.read) if tensor is not None))
        weights.setdefault(run.name, []).append(position_weights(run.output, gradient))
        if seen is not None:
            seen(run, gradient)
    return _empty_goals(runs, by_output, by_read), weights


def check_ran(ran: Collection[str], outputs: Sequence[str]) -> None:
    """Refuse a `forward` that does not run the model's attention.

    Args:
        ran: names of the layers that ran.
        outputs: names of attention's output projections.

    Raises:
        CalibrationError: none of them ran.
    """
    if not set(ran) & set(outputs):
        raise CalibrationError("forward(teacher, batch) ran none of the teacher's attention layers")


def _check_returned(returned: Mapping[Any, Tensor], number: int) -> None:
    """Refuse a batch of this number for which `forward` returns NaN.

    Raises:
        CalibrationError: a tensor that was returned holds NaN; says in which rows.
    """
    for tensor in returned.values():
        if tensor.isnan().any():
            count = len(tensor) if tensor.dim() else 1
            rows = tensor.detach().isnan().reshape(count, -1).any(dim=1).nonzero()[:, 0]
            raise CalibrationError(
                f"batch {number}: what forward returns for the teacher is NaN, in rows {rows[:SHOWN].tolist()} of "
                f"{count}, in {tensor.dtype}; look for sequences that are all padding, and in half precision for "
                "values that overflow: try bfloat16 or float32"
            )


def check_finite(name: str, number: int, *tensors: Tensor) -> None:
    """Refuse what a layer of the dense model puts out in the batch of this number, or what is read next.

    Raises:
        CalibrationError: it is NaN or infinite somewhere.
    """
    if not all_finite(*tensors):
        raise CalibrationError(
            f"batch {number}: in the teacher there are NaN or infinite values after {name!r}; look for them in the "
            "batch or in the model's weights"
        )


def _empty_goals(
    runs: Sequence[Run], by_output: Sequence[Tensor | None], by_read: Sequence[Tensor | None]
) -> dict[str, Goal]:
    """The layers' goals, without weights, in the order in which layers first run.

    Args:
        by_output, by_read: for each run the gradients by its output, and by what was read after it; None without one.
    """
    readers: dict[str, set[str | None]] = {}
    for run, of_output, of_read in zip(runs, by_output, by_read, strict=True):
        readers.setdefault(run.name, set()).add(run.reader if _same(of_output, of_read) else None)
    return {name: Goal(next(iter(several)) if len(several) == 1 else None) for name, several in readers.items()}


def _same(of_output: Tensor | None, of_read: Tensor | None) -> bool:
    """Whether the gradients by an output and by what is read later are equal but for rounding, and not 0.

    Then the output was added to the residual stream.
    """
    if of_output is None or of_read is None or not bool(of_output.any()):
        return False
    return bool((of_output - of_read).abs().max() <= SAME * of_read.abs().max())
