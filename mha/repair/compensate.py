"""Repair after pruning, from unlabelled calibration data: linear layers of what is left are fitted again.

Layer by layer in the order in which they run, with the pruned and already repaired layers in front, each is brought
close to what it does in the dense model. Nothing is trained.
"""

import copy
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from mha.families import find_attention
from mha.families.base.wrappers import unwrapped
from mha.pruning.masking import at_rest
from mha.repair.fit_linear import Method, fit
from mha.repair.layers_to_fit import Scope, check_belong, emptied, parts_of
from mha.repair.observe import Forward, calling_outputs, held_batches
from mha.repair.on_cluster import fit_on_cluster
from mha.repair.reading import Reading, read
from mha.repair.rows import FromTheStart, Part, SideBySide, Source, StrayedError
from mha.runtime.cluster import check_client
from mha.runtime.inference_tensors import usable
from mha.runtime.locking import locked
from mha.runtime.progress import WITH_GRADIENTS, Bar
from mha.values.errors import CalibrationError

METHODS: tuple[Method, ...] = ("bias", "scale", "least_squares")
SCOPES: tuple[Scope, ...] = ("attention", "stream", "all")

logger = logging.getLogger(__name__)


def compensate(
    pruned: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Any],
    forward: Forward,
    method: Method = "least_squares",
    *,
    scope: Scope = "all",
    progress: bool | None = None,
    cluster: Any = None,
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

    Both models run in eval mode, and are left as they were, also after an error. All batches go through both models
    once, side by side, and wait for one another at every fitted layer; in memory are what they hold at one layer, and
    the sums that the fit is solved from. (Models that run a layer on what it made itself, as ALBERT does, start anew
    for every layer.)

    Args:
        batches: read once, and held; labels are not needed.
        forward: (model, batch) runs the model and returns what matters of its output.
        scope: what least squares may fit: "attention", the output projections; "stream", also every other linear
            layer that writes to the residual stream, such as the second one of a feed-forward network; or "all", also
            the linear layers that read it, toward their own outputs in the dense model.
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.

        cluster: a `distributed.Client` of dask, whose workers read the batches, which may be what `mha.score` takes
            there; None reads them here. The result is the same but for rounding. Every layer takes passes of its own
            through both models from the start up to it, so that it is for sets that are too large for one machine
            (docs/cluster-scoring.md).

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
    if cluster is not None:
        check_client(cluster, "mha.compensate")
    calibration = held_batches(batches) if cluster is None else list(batches or ())
    with locked(pruned, teacher, by="mha.compensate", draws=True), torch.inference_mode(False):
        repaired = copy.deepcopy(unwrapped(pruned))
        bar = Bar("compensate", progress)
        with bar.shown():
            models = usable(repaired), usable(unwrapped(teacher))
            if cluster is None:
                fit_again(*models, calibration, forward, bar, method=method, scope=scope)
            else:
                fit_on_cluster(*models, calibration, forward, bar, cluster, method=method, scope=scope)
    return repaired


def fit_again(
    repaired: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Any],
    forward: Forward,
    bar: Bar,
    *,
    method: Method = "least_squares",
    scope: Scope = "all",
    reading: Reading | None = None,
) -> None:
    """Fit the linear layers of `repaired`, the pruned model, to the dense model `teacher`, in place.

    `method` and `scope` are those of `compensate`; `bar` shows how many runs of a model have been made.

    Args:
        reading: what `read` has given for the teacher and these batches; None reads it now.

    Raises:
        CalibrationError: NaN or infinity, or a `forward` that does not run both models alike.
        PlanError: the pruned model was not pruned from the teacher.
        UnsupportedModule: an output projection is no plain linear layer.
    """
    students, teachers = find_attention(repaired), find_attention(teacher)
    check_belong(students, teachers)
    with at_rest(teacher, repaired), calling_outputs(teachers):
        silent = {module for name in emptied(students, teachers) for module in teachers[name].module.modules()}
        if reading is None or reading.readers_in(silent):
            bar.expect(WITH_GRADIENTS * len(batches))
            bar.doing("reading the dense model")
            reading = read(teacher, batches, bar.counting(forward, WITH_GRADIENTS), silent=silent)
        parts = parts_of(repaired, teacher, reading.goals, method, scope)
        with torch.no_grad(), calling_outputs(students):
            _fit_parts(parts, repaired, teacher, batches, forward, method, reading, bar)


def _fit_parts(
    parts: Sequence[Part],
    repaired: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Any],
    forward: Forward,
    method: Method,
    reading: Reading,
    bar: Bar,
) -> None:
    """Fit the layers one after the other, side by side where the models allow it, else from the start for each."""
    calls = reading.calls(parts, forward)
    if calls is not None:
        before = {part.name: copy.deepcopy(part.linear.state_dict()) for part in parts}
        try:
            _fit_from(SideBySide(repaired, teacher, parts, calls), parts, method, len(batches), 2, bar)
            return
        except (StrayedError, CalibrationError) as error:  # one that is no matter of going side by side comes again
            logger.info("every layer's passes begin at the start of the model: %r", error)
            for part in parts:
                part.linear.load_state_dict(before[part.name])
    source = FromTheStart(repaired, teacher, parts, batches, forward)
    _fit_from(source, parts, method, len(batches), len(parts), bar)


def _fit_from(source: Source, parts: Sequence[Part], method: Method, batches: int, passes: int, bar: Bar) -> None:
    """Fit the layers to the rows of `source`, which takes about so many passes over the batches for all of them."""
    bar.expect(passes * batches)
    for part in source:
        bar.doing(part.name)
        fit(part, source.rows(part), method, batches)
        bar.advance(passes * batches / len(parts))
