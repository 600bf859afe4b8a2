"""Repair after pruning, from unlabelled calibration data: linear layers of what is left are fitted again.

Layer by layer in the order in which they run, with the pruned and already repaired layers in front, each is brought
close to what it does in the dense model. Nothing is trained.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from mha.families import find_attention
from mha.families.base.wrappers import unwrapped
from mha.pruning.masking import at_rest
from mha.repair.fit_linear import LinearFit, LinearsFit, Method
from mha.repair.layers_to_fit import check_belong, kept_outputs, shared_linears
from mha.repair.observe import Forward, calling_outputs, held_batches
from mha.repair.residual_stream import Goal, Sought, goals_of, together
from mha.runtime.inference_tensors import usable
from mha.runtime.locking import locked
from mha.runtime.progress import WITH_GRADIENTS, Bar
from mha.values.errors import CalibrationError

Scope = Literal["attention", "stream", "all"]
METHODS: tuple[Method, ...] = ("bias", "scale", "least_squares")
SCOPES = ("attention", "stream", "all")


def compensate(
    pruned: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    forward: Forward,
    method: Method = "least_squares",
    *,
    scope: Scope = "all",
    progress: bool | None = None,
) -> nn.Module:
    """A copy of `pruned` that comes closer to `teacher`, the model it was pruned from; without labels or training.

    Methods, each for one layer after the other, from the first pruned one on:

    - "bias": the mean of what the layer lacks goes into the output projection's bias (An et al. 2023, FLAP, 3.3).
    - "scale": one factor per head, by least squares (Kwon et al. 2022, section 4.3).
    - "least_squares": W_o and its bias, by least squares toward the dense layer's outputs; or, where the output is
      added to a residual stream, toward what the stream holds after the dense layer, which makes up for what earlier
      layers left undone. The other linear layers likewise (`scope`). Damped toward the present weight, by as much as
      serves held-out batches (every fourth) best.

    Tokens count as much as what `forward` returns depends on them: padding that is masked in the end does not.
    A layer without heads gets a new bias. A projection without a bias stays without one, so that the result
    is saved and loaded like any pruned model.

    Both models run in eval mode, and are left as they were, also after an error. What the stream holds after each
    fitted layer is kept in memory: for float32 4 bytes x positions x width x layers.

    Args:
        batches: read once, and held; labels are not needed.
        forward: (model, batch) runs the model and returns what matters of its output.
        scope: what least squares may fit: "attention", the output projections; "stream", also every other linear
            layer that writes to the residual stream, such as the second one of a feed-forward network; or "all", also
            the linear layers that read it, toward their own outputs in the dense model.
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.

    Raises:
        CalibrationError: an unknown method or scope, no batches, NaN or infinity, or a `forward` that does not run both
            models alike.
        PlanError: the models do not belong together: other layers, or heads that the teacher does not have.
        UnsupportedModule: an output projection that is no plain linear layer.
        BusyError: another thread has one of the models, and waiting for it would not end.

    Example:
        >>> teacher = nn.ModuleDict({"attention": mha.MultiHeadAttention.square(8, 4)})
        >>> def forward(model, x):
        ...     return model["attention"](x, x, x)
        >>> batches = [torch.randn(16, 5, 8) for _ in range(4)]
        >>> pruned = mha.prune(teacher, mha.HeadPlan({"attention": (0, 1, 3)}))
        >>> repaired = mha.compensate(pruned, teacher, batches, forward, progress=False)
        >>> before, after = (
        ...     sum((forward(model, x) - forward(teacher, x)).square().mean() for x in batches)
        ...     for model in (pruned, repaired)
        ... )
        >>> bool(after < before)
        True
    """
    for option, known in ((method, METHODS), (scope, SCOPES)):
        if option not in known:
            raise CalibrationError(f"expected one of {', '.join(known)}, got {option!r}")
    calibration = held_batches(batches)
    with locked(pruned, teacher, by="mha.compensate", draws=True), torch.inference_mode(False):
        repaired = copy.deepcopy(unwrapped(pruned))
        bar = Bar("compensate", progress)
        with bar.shown():
            _fit_again(usable(repaired), usable(unwrapped(teacher)), calibration, forward, method, scope, bar)
    return repaired


def _fit_again(
    repaired: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Any],
    forward: Forward,
    method: Method,
    scope: Scope,
    bar: Bar,
) -> None:
    """Fit the linear layers of `repaired`, the pruned model, to the dense model `teacher`, in place.

    `method` and `scope` are those of `compensate`; `bar` shows how many runs of a model have been made.

    Raises:
        CalibrationError: NaN or infinity, or a `forward` that does not run both models alike.
        PlanError: the pruned model was not pruned from the teacher.
        UnsupportedModule: an output projection is no plain linear layer.
    """
    students, teachers = find_attention(repaired), find_attention(teacher)
    check_belong(students, teachers)
    layers = {teachers[name].output_name: layer for name, layer in students.items()}
    own = method != "least_squares"
    others = [] if own or scope == "attention" else shared_linears(teacher, teachers, repaired)
    further = kept_outputs(teacher, repaired, others) if scope == "all" else {}
    empty = [teachers[layer.name].module for layer in students.values() if not layer.num_heads]
    sought = Sought(
        outputs=list(layers),
        others=others,
        first=[name for name, layer in layers.items() if layer.num_heads < teachers[layer.name].num_heads],
        own=own,
        further=further,
        silent={module for layer in empty for module in layer.modules()},
    )
    guess = len(batches) * (len(layers) + len(others) + 1) / 2  # as if each were fitted, and ran after the one before
    bar.expect(WITH_GRADIENTS * len(batches) + guess)
    bar.doing("reading the dense model")
    with at_rest(teacher, repaired), calling_outputs(teachers):
        goals = goals_of(teacher, sought, batches, bar.counting(forward, WITH_GRADIENTS))
        groups = together(goals)
        work = [len(batches) * runs for runs in _runs_for(groups, goals, len(layers) + len(others))]
        bar.expect(sum(work) - guess)
        with torch.no_grad(), calling_outputs(students):
            for names, units in zip(groups, work, strict=True):
                bar.doing(names[0])
                of_group = {name: goals.pop(name) for name in names}
                for name, goal in of_group.items():
                    if goal.kept:
                        LinearFit(name, layers.get(name), goal, repaired, method).run(batches, forward)
                if weights := {name: goal.weights for name, goal in of_group.items() if not goal.kept}:
                    LinearsFit(repaired, teacher, weights, further).run(batches, forward)
                bar.advance(units)


def _runs_for(groups: Sequence[Sequence[str]], goals: Mapping[str, Goal], layers: int) -> list[float]:
    """About how many runs of a whole model each list of `groups` takes for a batch: a pass ends with its last layer.

    Args:
        groups: lists of layers that are fitted together, in the order in which they run.
        layers: how many linear layers there are, those before the first list included.
    """
    runs, left = [], len(goals)
    for names in groups:
        left -= len(names)
        models = 1 if goals[names[0]].kept else 2  # the dense one too
        runs.append(models * (1 - left / layers))
    return runs
