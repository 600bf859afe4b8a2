"""The dense model, read once with gradients: what its linear layers lead to, and how the batches run it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import find_attention
from mha.repair.layers_to_fit import shared_linears
from mha.repair.observe import Forward
from mha.repair.residual_stream import Goal, Seen, Sought, goals_of
from mha.repair.rows import Call, Part
from mha.runtime.nests import leaves
from mha.runtime.undoing import hooked

CONTAINERS = tuple, list, dict
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Reading:
    """What was read of the dense model.

    Attributes:
        goals: linear layer -> its goal, in the order in which they first run.
        arguments: batch -> those of each call of the model itself within `forward`.
        model: the dense model.
        batches: what it was run on.
        read: the numbers of those that were read.
    """

    goals: Mapping[str, Goal]
    arguments: Sequence[Sequence[Arguments]]
    model: nn.Module
    batches: Sequence[Any]
    read: Sequence[int]

    def tokens(self, number: int) -> int:
        """How many tokens the layers run on in a batch that was read."""
        return max((sum(run.numel() for run in goal.weights[number]) for goal in self.goals.values()), default=0)

    def readers_in(self, modules: Collection[nn.Module]) -> bool:
        """Whether one of these modules of the dense model reads the residual stream for some goal."""
        readers = {goal.reader for goal in self.goals.values()} - {None}
        return any(self.model.get_submodule(str(reader)) in modules for reader in readers)

    def calls(self, parts: Sequence[Part], forward: Forward) -> list[Call] | None:
        """Calls that run each of these layers exactly once, which together are the batches; None if there are none.

        They are those of `forward`, or those of the model that `forward` makes with plain arguments, as for the queries
        and the documents of a batch.
        """
        runs = [{len(part.goal.weights[number]) for part in parts} for number in range(len(self.batches))]
        if all(counts == {1} for counts in runs):
            runs_of_forward = (partial(_forwarded, forward, batch) for batch in self.batches)
            return [Call(number, 0, run) for number, run in enumerate(runs_of_forward)]
        if all(counts == {len(calls)} for counts, calls in zip(runs, self.arguments, strict=True)) and all(
            map(_plain, self.arguments)
        ):
            return [
                Call(number, place, partial(_called, arguments))
                for number, calls in enumerate(self.arguments)
                for place, arguments in enumerate(calls)
            ]
        return None


def read(
    model: nn.Module,
    batches: Sequence[Any],
    forward: Forward,
    *,
    silent: Collection[nn.Module] = (),
    watched: Forward | None = None,
    seen: Seen | None = None,
    enough: int | None = None,
) -> Reading:
    """Run the dense model on batches, with gradients, and find the goals of its linear layers.

    Args:
        model: the dense model, whose layers call their output projections as modules (`calling_outputs`).
        forward: (model, batch) runs the model and returns what matters of its output.
        silent: modules that do not run in the pruned model, and so read nothing there.
        watched: like `forward`, of what gradients are taken; None for what `forward` returns.
        seen: called with every run of a layer, and the gradient by its output.
        enough: after how many tokens no further batch is read, if those tell which tokens of the others count.

    Raises:
        CalibrationError: `forward` ran no attention, or there are NaN or infinite values after a layer.
    """
    sought = sought_in(model, silent)
    arguments: dict[int, list[Arguments]] = {}

    def noting(model: nn.Module, numbered: tuple[int, Any]) -> Any:
        number, batch = numbered
        with _noted(model, arguments.setdefault(number, [])):
            return (watched or forward)(model, batch)

    goals = goals_of(model, sought, batches, noting, seen=seen, enough=enough)
    return Reading(
        goals, [arguments.get(number, []) for number in range(len(batches))], model, batches, list(arguments)
    )


def sought_in(model: nn.Module, silent: Collection[nn.Module]) -> Sought:
    """The linear layers of the dense model for which goals are sought; `silent` as in `read`."""
    layers = find_attention(model)
    return Sought(
        outputs=[layer.output_name for layer in layers.values()],
        others=shared_linears(model, layers, model),
        silent=silent,
    )


@contextmanager
def _noted(model: nn.Module, arguments: list[Arguments]) -> Iterator[None]:
    """Within the context the arguments of each call of the model are noted."""

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments.append((args, kwargs))

    with hooked(model, note, before=True, with_kwargs=True):
        yield


def _called(arguments: Arguments, model: nn.Module) -> Any:
    """What the model returns for these arguments."""
    args, kwargs = arguments
    return model(*args, **kwargs)


def _forwarded(forward: Forward, batch: Any, model: nn.Module) -> Any:
    """What `forward` returns for the batch."""
    return forward(model, batch)


def _plain(calls: Sequence[Arguments]) -> bool:
    """Whether the arguments are given tensors and plain values, so that no call can leave something to a later one."""
    nests = (nest for args, kwargs in calls for nest in (*args, *kwargs.values()))
    return all(_is_plain(leaf) for nest in nests for _, leaf in leaves(nest, CONTAINERS))


def _is_plain(value: Any) -> bool:
    """Whether the value is a tensor that was not computed by the model, or one that can't be changed."""
    if isinstance(value, Tensor):
        return value.grad_fn is None
    return value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device)
