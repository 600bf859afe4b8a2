"""From a trained model to a smaller one in one call: score, choose, prune, repair."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mha.compensation import compensate
from mha.distillation import relative_error
from mha.errors import CalibrationError, SlowPlanWarning
from mha.families import find_attention
from mha.heads import HeadPlan, HeadScores
from mha.importance import score
from mha.importance.calibration import Loss
from mha.inference import usable, usable_batch
from mha.locking import locked
from mha.masking import at_rest, eval_mode
from mha.planning import choose
from mha.pruning import prune
from mha.resolving import resolved_scores
from mha.streams import Forward

Distance = Callable[[Any, Any], Tensor]
ROUNDS = 4
SCORED = 8  # batches on which every head is left out for the loss, evenly spaced
JUDGED = 4  # those on which it is for the distance, where every round does so again
BUDGETS = ("keep", "heads", "latency", "flops", "parameters")


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
            criterion on all), and repair is fitted, and the best of the three found, on all.
        loss: (model, batch) -> scalar, the mean over the batch's examples; None where there are no labels.
        forward: (model, batch) runs the model and returns what matters of its output; labels are not needed.
        criterion: one of `mha.criteria()`, or "default".
        rounds: the budget shrinks by the same factor in each; 1 leaves the third way out.
        distance: (what forward returns, what it returns for the dense model) -> scalar, such as a KL divergence.
            By default the mean squared error of every floating tensor, as a share of the dense one's mean square.
        seed: for criteria that draw at random.
        examples: batch -> how many examples it has; found out unless given (`mha.score`).
        budget: exactly one of those of `mha.choose` (`keep=0.5`, say), and with it whatever else that
            takes (`costs`, `min_heads`, `uniform`, …).

    Raises:
        CalibrationError, ScoresError, PlanError, UnsupportedModule: as `mha.score`, `mha.choose`, `mha.prune` and
            `mha.compensate`.
        TypeError: a keyword that `mha.choose` does not have.
        BusyError: another thread has the model, and waiting for it would not end.
    """
    _check_budget(model, budget)
    held = [usable_batch(batch) for batch in batches or ()]
    if not held:
        raise CalibrationError("the calibration set is empty: expected at least one batch")
    if rounds < 1:
        raise CalibrationError(f"rounds must be at least 1, got {rounds}")
    with locked(model, by="mha.shrink", draws=True), at_rest():
        model = usable(model)
        if criterion is not None:
            scores = score(model, held, loss, criterion, seed=seed, examples=examples)
            return compensate(prune(model, choose(scores, model=model, **budget)), model, held, forward)
        distance = distance or relative_error
        own = None if loss is None else score(model, _spaced(held, SCORED), loss, "leave_one_out", examples=examples)
        found = list(candidates(model, own, held, forward, rounds, distance, budget))
        if len(found) == 1:
            return found[0]
        with torch.random.fork_rng(), torch.no_grad():
            worth = [_mean(one, model, held, loss, forward, distance) for one in found]
        return found[min(range(len(found)), key=lambda place: worth[place])]


def candidates(
    model: nn.Module,
    own: HeadScores | None,
    batches: Sequence[Any],
    forward: Forward,
    rounds: int,
    distance: Distance,
    budget: Mapping[str, Any],
) -> Iterator[nn.Module]:
    """Repaired models within the budget; those of the same plan once."""
    tried: list[HeadPlan] = []

    def repaired(scores: HeadScores) -> Iterator[nn.Module]:
        plan = choose(scores, model=model, **budget)
        if plan not in tried:
            tried.append(plan)
            yield compensate(prune(model, plan), model, batches, forward)

    if own is not None:
        yield from repaired(own)
    judge = _Judge(model, batches, forward, distance)
    first = judge.scores(model)
    yield from repaired(first)
    if rounds > 1:
        yield _in_rounds(model, first, judge, batches, forward, rounds, budget)


class _Judge:
    """Scores every head of the dense model by what its outputs lose when a smaller one's heads leave one by one."""

    def __init__(self, model: nn.Module, batches: Sequence[Any], forward: Forward, distance: Distance) -> None:
        self._model, self._batches, self._forward, self._distance = model, batches, forward, distance
        with torch.random.fork_rng(), eval_mode(model), torch.no_grad():
            self._judged = [(batch, forward(model, batch)) for batch in _spaced(batches, JUDGED)]

    def scores(self, small: nn.Module) -> HeadScores:
        with torch.random.fork_rng():
            found = resolved_scores(small, self._batches, self._forward, self._measure, self._judged)
        return _of_all(self._model, found)

    def _measure(self, small: nn.Module, part: tuple[Any, Any]) -> float:
        batch, dense = part
        return self._distance(self._forward(small, batch), dense).item()


def _in_rounds(
    model: nn.Module,
    scores: HeadScores,
    judge: _Judge,
    batches: Sequence[Any],
    forward: Forward,
    rounds: int,
    budget: Mapping[str, Any],
) -> nn.Module:
    for number in range(1, rounds):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowPlanWarning)  # about a plan on the way
            plan = choose(scores, model=model, **_on_the_way(budget, number / rounds, len(scores)))
        small = compensate(prune(model, plan), model, batches, forward, scope="attention")
        scores = judge.scores(small)
    return compensate(prune(model, choose(scores, model=model, **budget)), model, batches, forward)


def _mean(
    small: nn.Module,
    model: nn.Module,
    batches: Sequence[Any],
    loss: Loss | None,
    forward: Forward,
    distance: Distance,
) -> float:
    """What is to be low, over all batches: the loss, or the distance to the dense model."""
    with eval_mode(small), eval_mode(model):
        if loss is not None:
            return sum(float(loss(small, batch)) for batch in batches) / len(batches)
        return sum(float(distance(forward(small, batch), forward(model, batch))) for batch in batches) / len(batches)


def _spaced(batches: Sequence[Any], count: int) -> Sequence[Any]:
    """So many of them, evenly spaced; all if there are no more."""
    return batches[:: max(1, len(batches) // count)][:count]


def _of_all(model: nn.Module, scores: HeadScores) -> HeadScores:
    """Scores for all heads of the model: those that have left come back last."""
    values = [0.0, *(value for row in scores.scores.values() for value in row.tolist())]
    lowest = min(values) - (max(values) - min(values)) - 1.0
    layers = find_attention(model)
    rows = {}
    for name, layer in layers.items():
        known = dict(zip(scores.heads[name], scores.scores[name].tolist(), strict=True))
        rows[name] = torch.tensor([known.get(head, lowest) for head in layer.heads], dtype=torch.float64)
    return HeadScores(
        rows,
        groups={name: layer.num_kv_heads for name, layer in layers.items()},
        heads={name: layer.heads for name, layer in layers.items()},
    )


def _on_the_way(budget: Mapping[str, Any], share: float, heads: int) -> dict[str, Any]:
    """The budget when this share of the rounds is over: down by equal factors, at last the budget itself."""
    found = dict(budget)
    for name in BUDGETS:
        if share < 1 and (target := budget.get(name)) is not None:
            whole = heads if name == "heads" else 1.0
            value = whole * (target / whole) ** share if target > 0 else whole * (1 - share)
            found[name] = round(value) if name == "heads" else value
    return found


def _check_budget(model: nn.Module, budget: Mapping[str, Any]) -> None:
    """Refuse a budget that can't be met before scores are computed, which may take long: any scores tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPlanWarning)  # it would be about other scores
        choose(score(model, None, None, "random"), model=model, **budget)
