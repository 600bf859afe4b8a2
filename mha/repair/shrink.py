"""From a trained model to a smaller one in one call: heads are chosen and cut out, and what is left is repaired."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from mha.certifying.certify import certify
from mha.certifying.judge import Evaluates, Judge
from mha.importance.running.batch import Loss
from mha.importance.score import score
from mha.planning.choose import choose, tell_if_slow
from mha.pruning.masking import at_rest
from mha.pruning.slicing import prune
from mha.repair.compensate import fit_again
from mha.repair.distill import Distance, seconds_in
from mha.repair.distill import distill as distill_for
from mha.repair.layers_to_fit import Scope
from mha.repair.like_lengths import by_length
from mha.repair.observe import Forward, held_batches
from mha.repair.reading import Reading
from mha.repair.selection import BUDGETS, Selection, plan_within, select
from mha.runtime.inference_tensors import usable
from mha.runtime.locking import locked
from mha.runtime.progress import WITH_GRADIENTS, Bar, called
from mha.values.errors import CalibrationError, CertificateError
from mha.values.plan import HeadPlan, HeadScores

ENOUGH = 4096  # tokens that are read with gradients
RATE = 2e-4  # learning rate of the training
LADDER = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)  # shares of the heads


def shrink(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss | None,
    forward: Forward,
    *,
    criterion: str | None = None,
    rounds: int = 1,
    scope: Scope = "all",
    distance: Distance | None = None,
    distill: float | str | None = None,
    unlabelled: Iterable[Any] | None = None,
    at_most: float | None = None,
    confidence: float = 0.95,
    judge: Judge | Evaluates | None = None,
    ladder: Sequence[float] = LADDER,
    seed: int = 0,
    examples: Callable[[Any], int] | None = None,
    progress: bool | None = None,
    **budget: Any,
) -> nn.Module:
    """A smaller model within the budget, repaired on the calibration data; nothing is trained unless `distill` says so.

    Heads are chosen in closed form (`mha.repair.selection`): for every number of heads in every layer, how far the
    model's outputs move, and the loss if there is one, to second order, once the output projections are solved again
    for the heads that stay. A pass with gradients over a part of the data tells it for all budgets; the best plan
    follows exactly, by `choose`. Then the linear layers are fitted again (`mha.compensate`), in one pass over the data.
    The model is left as it was.

    In place of a budget may stand what can be lost, `at_most`: then the smallest of several models is returned (with
    `costs` the fastest) that was shown, by examples that nothing else has seen, to lose at most that of their metric
    (`mha.certify`). Its attribute `certificate` says so in a sentence. It is a copy of the dense model where nothing
    smaller could be shown to.

    Args:
        batches: calibration batches, read once, and held. Mappings of token ids and a mask are put together anew, so
            that texts of like length share a batch. One batch at a time is read with gradients, and two numbers of
            heads in every layer are measured on one: small ones, of some 250 tokens, take the least memory and time.
        loss: (model, batch) -> scalar, the mean over the batch's examples; None where there are no labels.
        forward: (model, batch) runs the model and returns what matters of its output; labels are not needed.
        criterion: one of `mha.criteria()`, or "default": that one scores the heads instead.
        rounds: in how many steps heads leave; after each, what is left is repaired and read again.
        scope: which layers are fitted in the end, as in `mha.compensate`.
        distance: (what forward returns, what it returns for the dense model) -> scalar, such as a KL divergence: by
            what outputs are compared. By default the mean squared error of every floating tensor, as a share of the
            dense one's mean square.
        distill: how long the result is trained on the dense model's outputs at most (`mha.distill`), such as "1min".
        unlabelled: batches to train on; those of the calibration set unless given, which the result fits better than
            others already: give others.
        at_most: the loss of the judge's metric that is allowed, such as 0.01 for a point of accuracy.
        confidence: with which it is to be shown.
        judge: who judges: an `mha.Judge`, or a task; none of its examples may be in `batches` or `unlabelled`.
        ladder: which shares of the heads are tried then, from the largest on until one can't be shown.
        seed: for criteria that draw at random.
        examples: batch -> how many examples it has, for a criterion; found out unless given (`mha.score`).
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.
            It is about the present step, and says which: how long later ones take is not known.
        budget: exactly one of those of `mha.choose` (`keep=0.5`, say), and with it whatever else that
            takes (`costs`, `min_heads`, `uniform`, …).

    Raises:
        CalibrationError, ScoresError, PlanError, UnsupportedModule: as `mha.score`, `mha.choose`, `mha.prune` and
            `mha.compensate`.
        CertificateError: as `mha.certify`; `at_most` without a judge, or with a budget.
        TypeError: a keyword that `mha.choose` does not have.
        BusyError: another thread has the model, and waiting for it would not end.

    Example:
        >>> model = nn.ModuleDict({"attention": mha.MultiHeadAttention.square(8, 4)})
        >>> def forward(model, x):
        ...     return model["attention"](x, x, x)
        >>> batches = [torch.randn(16, 5, 8) for _ in range(4)]
        >>> small = mha.shrink(model, batches, None, forward, keep=0.5, progress=False)
        >>> mha.find_attention(small)["attention"].num_heads
        2
    """
    rungs = _rungs(at_most, judge, ladder, budget)
    for rung in rungs:
        _check_budget(model, rung)
    if rounds < 1:
        raise CalibrationError(f"rounds must be at least 1, got {rounds}")
    seconds = None if distill is None else seconds_in(distill)
    calibration = by_length(held_batches(batches))
    further = calibration if unlabelled is None or seconds is None else by_length(held_batches(unlabelled))
    with locked(model, by="mha.shrink", draws=True), at_rest():
        model = usable(model)
        count = (rounds + (seconds is not None)) * len(rungs) + rounds
        work = _Work(model, calibration, forward, loss, distance, scope, _Steps(count, progress))
        training = None if seconds is None else _Training(further, seconds)
        if criterion is None:
            shrunk = partial(_in_rounds, work, work.selection(), rounds, training)
        else:
            with work.steps.next("score"):
                scores = score(model, calibration, loss, criterion, seed=seed, examples=examples, progress=progress)
            shrunk = partial(_by_scores, work, scores, training)
        if at_most is None or judge is None:
            return shrunk(rungs[0])
        seen = [*calibration, *further] if isinstance(judge, Judge) else None
        certificate = certify(
            model,
            [partial(shrunk, rung) for rung in rungs],
            judge,
            at_most=at_most,
            confidence=confidence,
            costs=budget.get("costs"),
            calibration=seen,
            seed=seed,
            progress=progress,
        )
        small = copy.deepcopy(model) if certificate.chosen is None else certificate.model
        assert small is not None
        vars(small)["certificate"] = replace(certificate, model=None)
        return small


class _Steps:
    """How many steps a call of `shrink` takes, and which is the present one.

    Args:
        count: how many steps; only the bars' titles say it.
        progress: show bars; None shows one where stderr is a terminal and the work takes long.
    """

    def __init__(self, count: int, progress: bool | None) -> None:
        self.progress = progress
        self._count, self._at = count, 0

    @contextmanager
    def next(self, what: str) -> Iterator[Bar]:
        """Within the context the next step is the present one: a bar shows its number and `what` it does."""
        self._at += 1
        with called(f"shrink {self._at} of {self._count}, {what}"):
            yield Bar(progress=self.progress)


@dataclass(frozen=True)
class _Work:
    """What `shrink` works with.

    Attributes:
        model: the dense model.
        batches: the calibration batches.
        forward: (model, batch) runs the model and returns what matters of its output.
        loss: (model, batch) -> scalar; None without labels.
        distance: by what outputs are compared; None for mean squares.
        scope: which layers are fitted in the end.
        steps: counts the steps of the call, for its bars.
    """

    model: nn.Module
    batches: Sequence[Any]
    forward: Forward
    loss: Loss | None
    distance: Distance | None
    scope: Scope
    steps: _Steps

    def selection(self, small: nn.Module | None = None) -> Selection:
        """The choices of heads in the dense model; in `small`, which has lost some of them, of those that it has."""
        with self.steps.next("read the model") as bar, bar.shown():
            read = self.model if small is None else small
            bar.expect(WITH_GRADIENTS * len(self.batches))
            forward = bar.counting(self.forward, WITH_GRADIENTS)
            with at_rest(read):
                return select(
                    read,
                    self.batches,
                    forward,
                    self.loss,
                    distance=self.distance,
                    enough=ENOUGH,
                    whole=self.model,
                    bar=bar,
                )

    def repaired(self, plan: HeadPlan, reading: Reading | None, scope: Scope | None = None) -> nn.Module:
        """A copy of the model, pruned by the plan, with the layers of the scope fitted again."""
        small = usable(prune(self.model, plan))
        with self.steps.next("repair") as bar, bar.shown():
            fit_again(small, self.model, self.batches, self.forward, bar, scope=scope or self.scope, reading=reading)
        return small

    def trained(self, small: nn.Module, training: "_Training | None") -> nn.Module:
        """The model trained on the dense one's outputs; as it is where there is no training."""
        if training is None:
            return small
        with self.steps.next("train"):
            return distill_for(
                small,
                self.model,
                training.batches,
                self.forward,
                seconds=training.seconds,
                learning_rate=RATE,
                distance=self.distance,
                progress=self.steps.progress,
            )


class _Training(NamedTuple):
    """A training at the end: on which batches, and for how many seconds at most."""

    batches: Sequence[Any]
    seconds: float


def _by_scores(work: _Work, scores: HeadScores, training: _Training | None, budget: Mapping[str, Any]) -> nn.Module:
    """The repaired model within the budget, the heads of which are chosen by their scores."""
    return work.trained(work.repaired(choose(scores, model=work.model, **budget), None), training)


def _in_rounds(
    work: _Work, selection: Selection, rounds: int, training: _Training | None, budget: Mapping[str, Any]
) -> nn.Module:
    """The repaired model after rounds, in each of which heads leave and what is left is repaired and read again.

    Args:
        selection: that of the dense model.
        budget: the arguments of `choose` at the end of the rounds.
    """
    reading = selection.reading
    for number in range(1, rounds):
        plan = selection.plan(_on_the_way(budget, number / rounds, selection.scores.num_heads))
        selection = work.selection(work.repaired(plan, reading, "attention"))
    plan = selection.plan(budget)
    tell_if_slow(plan, selection.scores, budget.get("costs"))
    return work.trained(work.repaired(plan, reading), training)


def _rungs(
    at_most: float | None, judge: Judge | Evaluates | None, ladder: Sequence[float], budget: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The budgets that are tried, as arguments of `choose`: the one that is given, or the ladder's.

    Raises:
        CertificateError: `at_most` without a judge or with a budget, or a judge without `at_most`; an empty ladder.
    """
    if at_most is None:
        if judge is not None:
            raise CertificateError("judge: say what may be lost, by at_most=0.01, say; a budget needs no judge")
        return [dict(budget)]
    if judge is None:
        raise CertificateError("at_most: what is lost has to be judged; give judge=, an mha.Judge of held-out examples")
    if given := [name for name in BUDGETS if budget.get(name) is not None]:
        raise CertificateError(f"give at_most or a budget, got both: at_most={at_most} and {', '.join(given)}")
    if not ladder:
        raise CertificateError("ladder: expected shares of the heads to try, such as (0.75, 0.5, 0.25), got none")
    return [{**budget, "keep": share} for share in sorted(ladder, reverse=True)]


def _on_the_way(budget: Mapping[str, Any], share: float, heads: int) -> dict[str, Any]:
    """The arguments of `choose` when `share` of the rounds is over, with a budget between all and the one asked for.

    It falls by the same factor in each round; toward 0, by equal amounts.

    Args:
        budget: the arguments of `choose` at the end of the rounds.
        heads: how many heads the dense model has.
    """
    present = dict(budget)
    for name in BUDGETS:
        if (target := budget.get(name)) is not None:
            whole = heads if name == "heads" else 1.0
            value = whole * (target / whole) ** share if target > 0 else whole * (1 - share)
            present[name] = round(value) if name == "heads" else value
    return present


def _check_budget(model: nn.Module, budget: Mapping[str, Any]) -> None:
    """Refuse a budget that can't be met, by random scores, before the model is read, which may take long.

    Raises:
        ScoresError: not exactly one budget, or one that can't be met.
        TypeError: a keyword that `mha.choose` does not have.
        UnsupportedModule: the model has no attention of a known family.
    """
    plan_within(score(model, None, None, "random", progress=False), budget, model=model)
