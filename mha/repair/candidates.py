"""The ways in which `shrink` chooses heads, each of which makes a repaired model within the budget."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import find_attention
from mha.importance.head_scores import head_scores
from mha.planning.choose import best_plan, choose
from mha.pruning.masking import eval_mode
from mha.pruning.slicing import prune
from mha.repair.compensate import Scope, compensate
from mha.repair.observe import Forward
from mha.repair.repaired_leave_one_out import resolved_scores
from mha.runtime.progress import called
from mha.values.plan import HeadPlan, HeadScores

Distance = Callable[[Any, Any], Tensor]  # (what forward returns, what it returns for the dense model) -> scalar
JUDGED = 4  # batches on which every head is left out for the distance, where every round does so again
BUDGETS = ("keep", "heads", "latency", "flops", "parameters")


class Steps:
    """How many steps a call of `shrink` takes at most, and which is the present one.

    Args:
        count: how many steps at most; only the bars' titles say it.
        progress: show bars; None shows one where stderr is a terminal and the work takes long.
    """

    def __init__(self, count: int = 0, progress: bool | None = False) -> None:
        self.progress = progress
        self._count, self._at = count, 0

    @contextmanager
    def next(self, what: str) -> Iterator[None]:
        """Within the context the next step is the present one: bars show its number and `what` it does."""
        self.skip()
        with called(f"shrink {self._at} of {self._count}, {what}"):
            yield

    def skip(self) -> None:
        """Count the next step without doing anything in it."""
        self._at += 1


@dataclass(frozen=True, kw_only=True)
class Search:
    """What every way to choose heads works with: model, data and budget.

    Attributes:
        model: the dense model.
        batches: the calibration batches.
        forward: (model, batch) runs the model and returns what matters of its output.
        distance: (what forward returns, what it returns for the dense model) -> scalar.
        rounds: number of rounds in which heads leave, in the way that takes rounds; 1 leaves this way out.
        budget: the arguments of `choose`: one budget, and terms.
        steps: counts the steps of the call, for its bars.
    """

    model: nn.Module
    batches: Sequence[Any]
    forward: Forward
    distance: Distance
    rounds: int
    budget: Mapping[str, Any]
    steps: Steps = field(default_factory=Steps)

    def repaired(self, plan: HeadPlan, scope: Scope = "all") -> nn.Module:
        """A copy of the model, pruned by the plan and repaired by `compensate`, which fits the layers of `scope`."""
        return compensate(
            prune(self.model, plan), self.model, self.batches, self.forward, scope=scope, progress=self.steps.progress
        )


def candidates(search: Search, own: HeadScores | None) -> Iterator[nn.Module]:
    """Yield repaired models within the budget, one for each way to choose heads.

    The ways are the scores `own`; leave-one-out of the distance to the dense outputs; and, if `search.rounds` is above
    1, the latter in rounds. The first two yield one model together if they choose the same plan.

    Args:
        own: scores of the heads by the loss; None where there is no loss, and so one way less.
    """
    tried: list[HeadPlan] = []

    def chosen_by(scores: HeadScores) -> Iterator[nn.Module]:
        """Yield the repaired model of the plan that these scores lead to, unless that plan was tried before."""
        plan = choose(scores, model=search.model, **search.budget)
        if plan in tried:
            search.steps.skip()
            return
        tried.append(plan)
        with search.steps.next("repair"):
            small = search.repaired(plan)
        yield small

    if own is not None:
        yield from chosen_by(own)
    judge = _Judge(search)
    with search.steps.next("score by the distance"):
        scores = judge.scores(search.model)
    yield from chosen_by(scores)
    if search.rounds > 1:
        yield _in_rounds(search, scores, judge)


def spaced(batches: Sequence[Any], count: int) -> Sequence[Any]:
    """`count` of the batches, evenly spaced; all if there are no more."""
    return batches[:: max(1, len(batches) // count)][:count]


def silently_chosen(scores: HeadScores, model: nn.Module, budget: Mapping[str, Any]) -> HeadPlan:
    """The plan that `choose` returns, without its warning: it would be about a plan that the user never sees.

    Args:
        budget: the arguments of `choose`: one budget, and terms.

    Raises:
        ScoresError: the budget can't be met.
    """
    limits = {name: budget.get(name) for name in BUDGETS}
    terms = {name: value for name, value in budget.items() if name not in BUDGETS}
    return best_plan(scores, limits, model=model, **terms)


class _Judge:
    """Scores heads by how far a model's outputs are from the dense one's without each of its heads in turn."""

    def __init__(self, search: Search) -> None:
        self._search = search
        with torch.random.fork_rng(), eval_mode(search.model), torch.no_grad():
            self._judged = [(batch, search.forward(search.model, batch)) for batch in spaced(search.batches, JUDGED)]

    def scores(self, small: nn.Module) -> HeadScores:
        """Scores of all heads of the dense model, measured on `small`; heads that it has lost get the lowest."""
        with torch.random.fork_rng():
            scores = resolved_scores(
                small,
                self._search.batches,
                self._search.forward,
                self._distance,
                self._judged,
                progress=self._search.steps.progress,
            )
        return _of_all(self._search.model, scores)

    def _distance(self, small: nn.Module, judged: tuple[Any, Any]) -> float:
        """How far `small` is from the dense model on a judged batch: a pair of the batch and the dense output."""
        batch, dense = judged
        return self._search.distance(self._search.forward(small, batch), dense).item()


def _in_rounds(search: Search, scores: HeadScores, judge: _Judge) -> nn.Module:
    """The repaired model after rounds, in each of which some heads leave and what is left is repaired and scored again.

    Args:
        scores: of the dense model's heads; they decide which leave in the first round.
    """
    steps, rounds = search.steps, search.rounds
    for number in range(1, rounds):
        budget = _on_the_way(search.budget, number / rounds, scores.num_heads)
        plan = silently_chosen(scores, search.model, budget)
        with steps.next(f"round {number} of {rounds}, repair"):
            small = search.repaired(plan, scope="attention")
        with steps.next(f"round {number} of {rounds}, score"):
            scores = judge.scores(small)
    plan = choose(scores, model=search.model, **search.budget)
    with steps.next(f"round {rounds} of {rounds}, repair"):
        return search.repaired(plan)


def _of_all(model: nn.Module, scores: HeadScores) -> HeadScores:
    """Scores of all heads of the model: those that `scores` has, and one below all of these for every other head."""
    values = [0.0, *(value for row in scores.scores.values() for value in row.tolist())]
    lowest = min(values) - (max(values) - min(values)) - 1.0
    layers = find_attention(model)
    rows = {}
    for name, layer in layers.items():
        known = dict(zip(scores.heads[name], scores.scores[name].tolist(), strict=True))
        rows[name] = torch.tensor([known.get(head, lowest) for head in layer.heads], dtype=torch.float64)
    return head_scores(layers, rows)


def _on_the_way(budget: Mapping[str, Any], share: float, heads: int) -> dict[str, Any]:
    """The arguments of `choose` when `share` of the rounds is over, with a budget between all and the one asked for.

    It falls by the same factor in each round; toward 0, by equal amounts.

    Args:
        budget: the arguments of `choose` at the end of the rounds.
        heads: how many heads the dense model has.
    """
    present = dict(budget)
    for name in BUDGETS:
        if share < 1 and (target := budget.get(name)) is not None:
            whole = heads if name == "heads" else 1.0
            value = whole * (target / whole) ** share if target > 0 else whole * (1 - share)
            present[name] = round(value) if name == "heads" else value
    return present
