"""From a trained model to a smaller one in one call: score, choose, prune, repair."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mha.importance.running.batch import Loss
from mha.importance.score import score
from mha.planning.choose import choose
from mha.pruning.masking import at_rest, eval_mode
from mha.repair.candidates import Distance, Search, Steps, candidates, silently_chosen, spaced
from mha.repair.distill import relative_error
from mha.repair.observe import Forward, held_batches
from mha.runtime.inference_tensors import usable
from mha.runtime.locking import locked
from mha.runtime.progress import Bar
from mha.values.errors import CalibrationError

ROUNDS = 4
SCORED = 8  # batches on which every head is left out for the loss, evenly spaced


def shrink(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss | None,
    forward: Forward,
    *,
    criterion: str | None = None,
    rounds: int = ROUNDS,
    distance: Distance | None = None,
    seed: int = 0,
    examples: Callable[[Any], int] | None = None,
    progress: bool | None = None,
    **budget: Any,
) -> nn.Module:
    """A smaller model within the budget, repaired on the calibration data; nothing is trained.

    No way to choose heads is best everywhere (docs/importance.md), so three are tried, each is repaired by least
    squares (`mha.compensate`), and the best is returned: the one with the lowest loss on the calibration data, or,
    without a loss, the one whose outputs are nearest to the dense model's. The three:

    - leave-one-out of the loss, once (not without a loss);
    - leave-one-out of the distance to the dense outputs, once: how far they move when a head leaves and its layer's
      output projection is solved again without it, which needs no labels;
    - the same in rounds: heads leave little by little, and what is left is repaired and scored again.

    With a `criterion`, that one scores the heads, once, and nothing else is tried. The model itself is left as it was.

    Args:
        batches: calibration batches, read once, and held. Heads are scored on eight of them (the distance on four, a
            criterion on all); repair is fitted on all, and on all it is decided which of the three is best.
        loss: (model, batch) -> scalar, the mean over the batch's examples; None where there are no labels.
        forward: (model, batch) runs the model and returns what matters of its output; labels are not needed.
        criterion: one of `mha.criteria()`, or "default".
        rounds: the budget shrinks by the same factor in each; 1 leaves the third way out.
        distance: (what forward returns, what it returns for the dense model) -> scalar, such as a KL divergence.
            By default the mean squared error of every floating tensor, as a share of the dense one's mean square.
        seed: for criteria that draw at random.
        examples: batch -> how many examples it has; found out unless given (`mha.score`).
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.
            It is about the present step, and says which: how long later ones take is not known.
        budget: exactly one of those of `mha.choose` (`keep=0.5`, say), and with it whatever else that
            takes (`costs`, `min_heads`, `uniform`, …).

    Raises:
        CalibrationError, ScoresError, PlanError, UnsupportedModule: as `mha.score`, `mha.choose`, `mha.prune` and
            `mha.compensate`.
        TypeError: a keyword that `mha.choose` does not have.
        BusyError: another thread has the model, and waiting for it would not end.

    Example:
        >>> model = nn.ModuleDict({"attention": mha.MultiHeadAttention.square(8, 4)})
        >>> def forward(model, x):
        ...     return model["attention"](x, x, x)
        >>> batches = [torch.randn(16, 5, 8) for _ in range(4)]
        >>> small = mha.shrink(model, batches, None, forward, keep=0.5, rounds=2, progress=False)
        >>> mha.find_attention(small)["attention"].num_heads
        2
    """
    _check_budget(model, budget)
    calibration = held_batches(batches)
    if rounds < 1:
        raise CalibrationError(f"rounds must be at least 1, got {rounds}")
    with locked(model, by="mha.shrink", draws=True), at_rest():
        model = usable(model)
        count = 2 if criterion is not None else (loss is not None) * 2 + 2 + (rounds > 1) * (2 * rounds - 1) + 1
        search = Search(
            model=model,
            batches=calibration,
            forward=forward,
            distance=distance or relative_error,
            rounds=rounds,
            budget=budget,
            steps=Steps(count, progress),
        )
        if criterion is not None:
            with search.steps.next("score"):
                scores = score(model, calibration, loss, criterion, seed=seed, examples=examples, progress=progress)
            plan = choose(scores, model=model, **budget)
            with search.steps.next("repair"):
                return search.repaired(plan)
        own = None
        if loss is not None:
            few = spaced(calibration, SCORED)
            with search.steps.next("score by the loss"):
                own = score(model, few, loss, "leave_one_out", examples=examples, progress=progress)
        small = list(candidates(search, own))
        return small[0] if len(small) == 1 else _best(small, search, loss)


def _best(small: Sequence[nn.Module], search: Search, loss: Loss | None) -> nn.Module:
    """Of the models `small` the one with the lowest mean loss over all batches.

    Without a loss it is the one with the lowest mean distance to the dense model.
    """
    with search.steps.next("compare"):
        bar = Bar(progress=search.steps.progress)
        bar.expect(len(small))
        with torch.random.fork_rng(), torch.no_grad(), bar.shown():
            losses = [_mean(model, search, loss) for model in bar.over(small)]
    return small[min(range(len(small)), key=lambda place: losses[place])]


def _mean(small: nn.Module, search: Search, loss: Loss | None) -> float:
    """The smaller model's mean loss over all batches; without a loss, its mean distance to the dense model."""
    forward, batches = search.forward, search.batches
    with eval_mode(small), eval_mode(search.model):
        if loss is not None:
            return sum(float(loss(small, batch)) for batch in batches) / len(batches)
        distances = (search.distance(forward(small, batch), forward(search.model, batch)) for batch in batches)
        return sum(float(distance) for distance in distances) / len(batches)


def _check_budget(model: nn.Module, budget: Mapping[str, Any]) -> None:
    """Refuse a budget that can't be met, by random scores, before scores that may take long are computed.

    Raises:
        ScoresError: not exactly one budget, or one that can't be met.
        TypeError: a keyword that `mha.choose` does not have.
        UnsupportedModule: the model has no attention of a known family.
    """
    silently_chosen(score(model, None, None, "random", progress=False), model, budget)
