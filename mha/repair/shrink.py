"""From a trained model to a smaller one in one call: score, choose, prune, repair."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import find_attention
from mha.importance.head_scores import head_scores
from mha.importance.running.batch import Loss
from mha.importance.score import score
from mha.planning.choose import best_plan, choose
from mha.pruning.masking import at_rest, eval_mode
from mha.pruning.slicing import prune
from mha.repair.compensate import compensate
from mha.repair.distill import relative_error
from mha.repair.repaired_leave_one_out import resolved_scores
from mha.repair.residual_stream import Forward
from mha.runtime.inference_tensors import usable, usable_batch
from mha.runtime.locking import locked
from mha.runtime.progress import Bar, called
from mha.values.errors import CalibrationError
from mha.values.plan import HeadPlan, HeadScores

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
            criterion on all), and repair is fitted, and the best of the three found, on all.
        loss: (model, batch) -> scalar, the mean over the batch's examples; None where there are no labels.
        forward: (model, batch) runs the model and returns what matters of its output; labels are not needed.
        criterion: one of `mha.criteria()`, or "default".
        rounds: the budget shrinks by the same factor in each; 1 leaves the third way out.
        distance: (what forward returns, what it returns for the dense model) -> scalar, such as a KL divergence.
            By default the mean squared error of every floating tensor, as a share of the dense one's mean square.
        seed: for criteria that draw at random.
        examples: batch -> how many examples it has; found out unless given (`mha.score`).
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.
            It is of the present step, and says which: how long the later ones take is not known.
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
            steps = _Steps(2, progress)
            with steps.next("score"):
                scores = score(model, held, loss, criterion, seed=seed, examples=examples, progress=progress)
            plan = choose(scores, model=model, **budget)
            with steps.next("repair"):
                return compensate(prune(model, plan), model, held, forward, progress=progress)
        distance, own = distance or relative_error, None
        steps = _Steps((loss is not None) * 2 + 2 + (rounds > 1) * (2 * rounds - 1) + 1, progress)
        if loss is not None:
            few = _spaced(held, SCORED)
            with steps.next("score by the loss"):
                own = score(model, few, loss, "leave_one_out", examples=examples, progress=progress)
        found = list(candidates(model, own, held, forward, rounds, distance, budget, steps))
        if len(found) == 1:
            return found[0]
        return _best(found, model, held, loss, forward, distance, steps)


class _Steps:
    """How many steps there are at most, and which is the present one."""

    def __init__(self, count: int = 0, progress: bool | None = False) -> None:
        self.progress = progress
        self._count, self._at = count, 0

    @contextmanager
    def next(self, what: str) -> Iterator[None]:
        """Within the context a bar tells that it is about this step."""
        self.skip()
        with called(f"shrink {self._at} of {self._count}, {what}"):
            yield

    def skip(self) -> None:
        self._at += 1


def candidates(
    model: nn.Module,
    own: HeadScores | None,
    batches: Sequence[Any],
    forward: Forward,
    rounds: int,
    distance: Distance,
    budget: Mapping[str, Any],
    steps: "_Steps | None" = None,
) -> Iterator[nn.Module]:
    """Repaired models within the budget; those of the same plan once."""
    steps, tried = steps or _Steps(), list[HeadPlan]()

    def repaired(scores: HeadScores) -> Iterator[nn.Module]:
        plan = choose(scores, model=model, **budget)
        if plan in tried:
            steps.skip()
            return
        tried.append(plan)
        with steps.next("repair"):
            small = compensate(prune(model, plan), model, batches, forward, progress=steps.progress)
        yield small

    if own is not None:
        yield from repaired(own)
    judge = _Judge(model, batches, forward, distance, steps.progress)
    with steps.next("score by the distance"):
        first = judge.scores(model)
    yield from repaired(first)
    if rounds > 1:
        yield _in_rounds(model, first, judge, batches, forward, rounds, budget, steps)


class _Judge:
    """Scores every head of the dense model by what its outputs lose when a smaller one's heads leave one by one."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        forward: Forward,
        distance: Distance,
        progress: bool | None,
    ) -> None:
        self._model, self._batches, self._forward, self._distance = model, batches, forward, distance
        self._progress = progress
        with torch.random.fork_rng(), eval_mode(model), torch.no_grad():
            self._judged = [(batch, forward(model, batch)) for batch in _spaced(batches, JUDGED)]

    def scores(self, small: nn.Module) -> HeadScores:
        with torch.random.fork_rng():
            found = resolved_scores(
                small, self._batches, self._forward, self._measure, self._judged, progress=self._progress
            )
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
    steps: _Steps,
) -> nn.Module:
    for number in range(1, rounds):
        plan = _silently_chosen(scores, model, _on_the_way(budget, number / rounds, scores.num_heads))
        with steps.next(f"round {number} of {rounds}, repair"):
            small = compensate(prune(model, plan), model, batches, forward, scope="attention", progress=steps.progress)
        with steps.next(f"round {number} of {rounds}, score"):
            scores = judge.scores(small)
    plan = choose(scores, model=model, **budget)
    with steps.next(f"round {rounds} of {rounds}, repair"):
        return compensate(prune(model, plan), model, batches, forward, progress=steps.progress)


def _best(
    found: Sequence[nn.Module],
    model: nn.Module,
    batches: Sequence[Any],
    loss: Loss | None,
    forward: Forward,
    distance: Distance,
    steps: _Steps,
) -> nn.Module:
    """Of those found the one that is best on all batches."""
    with steps.next("compare"):
        bar = Bar(progress=steps.progress)
        bar.expect(len(found))
        with torch.random.fork_rng(), torch.no_grad(), bar.shown():
            worth = [_mean(one, model, batches, loss, forward, distance) for one in bar.over(found)]
    return found[min(range(len(found)), key=lambda place: worth[place])]


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
    return head_scores(layers, rows)


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
    _silently_chosen(score(model, None, None, "random", progress=False), model, budget)


def _silently_chosen(scores: HeadScores, model: nn.Module, budget: Mapping[str, Any]) -> HeadPlan:
    """As `choose`, without the warning, which would be about a plan that is not the caller's."""
    limits = {name: budget.get(name) for name in BUDGETS}
    terms = {name: value for name, value in budget.items() if name not in BUDGETS}
    return best_plan(scores, limits, model=model, **terms)
