"""The smallest model of a ladder that loses at most so much of a metric, with a stated confidence after selection."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mha.certifying.certificate import Certificate, Tested
from mha.certifying.changes import checked_slices, flips, sliced
from mha.certifying.evidence import LEAST_EXAMPLES, Comparison, Test, comparison_of, is_binary
from mha.certifying.judge import Evaluates, Judge, Values, metric_of
from mha.certifying.ladder import Candidate, Ladder, Step
from mha.certifying.overlap import check_apart
from mha.certifying.selection import Testing, Verdict, last_shown, tested_at, verdicts
from mha.costs import CostTable
from mha.runtime.locking import exclusive
from mha.runtime.progress import Bar
from mha.values.errors import CertificateError
from mha.values.plan import HeadPlan

MOST_EXAMPLES = 10_000_000  # more than that nobody is told to find


@exclusive("mha.certify")
def certify(
    model: nn.Module,
    candidates: Iterable[Candidate],
    judge: Judge | Evaluates,
    *,
    at_most: float = 0.01,
    confidence: float = 0.95,
    relative: bool = False,
    testing: Testing = "sequence",
    test: Test | None = None,
    costs: CostTable | None = None,
    bounds: tuple[float, float] | None = None,
    slices: Mapping[str, Any] | None = None,
    calibration: Iterable[Any] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Certificate:
    """The smallest candidate (the fastest, with `costs`) that was shown to lose at most so much of the judge's metric.

    The promise: of many calls, each on examples of its own, at most 1 - confidence return a model that loses more than
    `at_most` in the long run, over such examples as the judge's. It holds although the model was selected by the same
    examples: each candidate's loss is tested, and the chance that any test is wrong is kept that low (Angelopoulos et
    al. 2021, "Learn then Test"). Where nothing can be shown, the dense model is returned.

    - testing="sequence": from the mildest candidate on, each at the full level, up to the first that can't be shown;
      bolder ones are not even run. This is fixed-sequence testing: the order must not depend on the judge's examples.
      (Laufer-Goldshtein et al., "Efficiently Controlling Multiple Risks with Pareto Testing", ICLR 2023, take it from
      other data.)
    - testing="holm": all are run and tested, those with the smallest p-values first (Holm 1979). For candidates
      without an order, of which a mild one may be worse than a bold one.

    Tests are paired, example by example. By default, what the values allow:

    - "exact": values of 0 or 1; the numbers of examples that flip either way. Right for any number of examples.
    - "betting": values within `bounds`; Waudby-Smith and Ramdas (2024). Right for any number of examples; it needs
      about twice as many as the other two to show the same.
    - "asymptotic": any values, and metrics with an `aggregate`: Student's distribution and, for the latter, the
      standard error over resamples. Right for many examples; nothing is shown with fewer than 30.

    Args:
        candidates: plans, models pruned from this one (repaired ones, say), or functions without arguments that return
            one of these, which are called when their turn comes. Ordered by heads kept or predicted latency; if
            functions are among them, all are taken as given, the mildest first. They must not have been made with the
            judge's examples.
        judge: an `mha.Judge`, or a task (`mha.tasks.Task`). Its examples are taken for independent.
        at_most: the loss that is allowed, above 0; in the metric (0.01 is one point of accuracy), or, with `relative`,
            as a share of the dense model's metric.
        test: one of the three instead of the default.
        costs: the fastest candidate is sought by this table, not the one with the fewest heads.
        bounds: the lowest and the highest value of an example, where the judge does not say.
        slices: name -> boolean mask over the judge's examples: what each of these parts loses is in the rows.
        calibration: the batches that scores and repair were made with; refused where the judge has examples of them.
        seed: of orders of examples ("betting") and of resamples ("asymptotic").
        progress: show a bar on stderr; unless told, one appears where stderr is a terminal and the work takes long.

    Raises:
        CertificateError: no candidates; a level or loss that is out of range; values that are NaN, no row an example,
            or not as many as of the dense model; or too few examples to show that even the dense model loses at most
            this: the error says how many it takes.
        CalibrationError: examples of the judge that are in the calibration set.
        PlanError: a candidate that is not pruned from this model.
        BusyError: another thread has the model, and waiting for it would not end.

    Example:
        >>> model = nn.ModuleDict({"attention": mha.MultiHeadAttention.square(8, 4)})
        >>> def answers(model, x):
        ...     return model["attention"](x, x, x).mean((1, 2)) > 0
        >>> x = torch.randn(2000, 5, 8)
        >>> labels = answers(model, x)  # so the dense model is always right
        >>> def right(model, batch):
        ...     return answers(model, batch[0]) == batch[1]
        >>> judge = mha.Judge([(x, labels)], right, metric="accuracy")
        >>> ladder = [mha.HeadPlan({"attention": range(kept)}) for kept in (3, 0)]
        >>> certificate = mha.certify(model, ladder, judge, at_most=0.3, progress=False)
        >>> print(certificate)
        At 95 % confidence, 1 of 4 heads removed costs at most 30.0 points of accuracy (seen: ... points on 2,000
        examples, ... flips to the worse, 0 to the better); ...
    """
    _check_levels(at_most, confidence, testing, test)
    metric = metric_of(judge, bounds)
    if calibration is not None:
        _check_calibration(judge, calibration)
    ladder = Ladder(model, candidates, costs)
    bar = Bar("certify", progress)
    bar.expect(1 + len(ladder))
    with torch.random.fork_rng(), bar.shown():
        dense = metric.values(model, "the dense model")
        bar.advance()
        comparison = comparison_of(metric, dense, test, relative, at_most, seed)
        _check_enough(comparison, dense, at_most, tested_at(1 - confidence, len(ladder), testing))
        masks = checked_slices(slices, len(dense))
        judged = _Judged(comparison, dense, held=len(ladder) if testing == "holm" else 2)
        found = verdicts(
            comparison,
            dense,
            judged.values(bar.over(ladder)),
            count=len(ladder),
            at_most=at_most,
            risk=1 - confidence,
            testing=testing,
        )
    chosen = last_shown(found)
    return Certificate(
        at_most=float(at_most),
        confidence=float(confidence),
        relative=relative,
        metric=metric.name,
        dense=metric.of(dense),
        heads=sum(map(len, ladder.whole().values())),
        examples=len(dense),
        binary=is_binary(dense),
        points=is_binary(dense) or metric.bounds == (0, 1),
        test=comparison.test,
        testing=testing,
        candidates=len(ladder),
        rows=tuple(judged.rows(found, at_most, masks, 1 - confidence)),
        chosen=chosen,
        whole=ladder.whole(),
        model=model if chosen is None else judged.models[chosen - len(found)],
    )


class _Judged:
    """The candidates that have been judged: their values, and the models that may yet be chosen.

    Args:
        comparison: how the values are compared with the dense model's.
        dense: those.
        held: how many of the last models are kept.

    Attributes:
        models: the last ones.
    """

    def __init__(self, comparison: Comparison, dense: Values, held: int) -> None:
        self._comparison, self._dense, self._keep = comparison, dense, held
        self._steps: list[tuple[HeadPlan, float | None, Values]] = []
        self.models: list[nn.Module] = []

    def values(self, ladder: Iterable[Step]) -> Iterator[Values]:
        """Judge one candidate after the other, when its values are asked for.

        Raises:
            CertificateError: values that are NaN, or can't be paired with the dense model's.
        """
        for step in ladder:
            whose = f"the candidate with {step.heads} heads"
            values = self._comparison.metric.values(step.model, whose)
            _check_like(values, self._dense, self._comparison, whose)
            self._steps.append((step.plan, step.latency, values))
            self.models = [*self.models, step.model][-self._keep :]
            del step  # so that a model that is not kept can leave the memory before the next is made
            yield values

    def rows(
        self, found: Sequence[Verdict], at_most: float, masks: Mapping[str, NDArray[np.bool_]], risk: float
    ) -> Iterator[Tested]:
        """A row for each candidate, with a bound that agrees with its verdict, and what its slices lose."""
        metric = self._comparison.metric
        for (plan, latency, values), verdict in zip(self._steps, found, strict=True):
            worse, better = flips(self._dense, values, metric.higher_is_better) or (None, None)
            above, below = (None, at_most) if verdict.shown else (at_most, None)
            yield Tested(
                plan=plan,
                heads=sum(map(len, plan.values())),
                latency=latency,
                value=metric.of(values),
                loss=verdict.evidence.loss,
                upper=verdict.evidence.upper(verdict.level, above, below),
                p=verdict.p,
                level=verdict.level,
                shown=verdict.shown,
                worse=worse,
                better=better,
                slices=sliced(self._comparison, self._dense, values, masks, risk),
            )


def _check_levels(at_most: float, confidence: float, testing: str, test: str | None) -> None:
    """Refuse levels that are out of range, and unknown names."""
    if not 0 < confidence < 1:
        raise CertificateError(f"confidence: expected a share between 0 and 1, such as 0.95, got {confidence!r}")
    if not (at_most > 0 and np.isfinite(at_most)):
        raise CertificateError(
            f"at_most: expected a loss above 0, got {at_most!r}; that nothing at all is lost can't be shown"
        )
    if testing not in ("sequence", "holm"):
        raise CertificateError(f"testing: expected sequence or holm, got {testing!r}")
    if test not in (None, "exact", "betting", "asymptotic"):
        raise CertificateError(f"test: expected exact, betting or asymptotic, got {test!r}")


def _check_calibration(judge: Any, calibration: Iterable[Any]) -> None:
    """Refuse a judge whose examples are in the calibration set, or can't be looked at."""
    if not hasattr(judge, "batches"):
        raise CertificateError(
            f"calibration: the judge is a {type(judge).__name__}, whose examples can't be looked at; give an mha.Judge "
            "with its batches, or leave calibration out"
        )
    check_apart(judge.batches, calibration)


def _check_enough(comparison: Comparison, dense: Values, at_most: float, level: float) -> None:
    """Refuse so few examples that even a model that changes nothing could not be shown to.

    Raises:
        CertificateError: it says how many it takes.
    """

    def enough(count: int) -> bool:
        values = np.resize(dense, (count, *dense.shape[1:]))
        return comparison.evidence(values, values).p_value(at_most, level) <= level

    if comparison.test == "asymptotic":
        needed = LEAST_EXAMPLES
    else:
        needed = len(dense) if enough(len(dense)) else _least(enough, len(dense))
    if needed > len(dense):
        raise CertificateError(
            f"at_most={at_most:g} can't be shown with {len(dense):,} examples at this confidence, not even of a model "
            f"that changes none of them; it takes at least {needed:,}, and more for a model that changes some. Judge "
            "by more, or allow more"
        )


def _least(enough: Callable[[int], bool], low: int) -> int:
    """The smallest number above `low`, which is not enough, that is."""
    high = 2 * low
    while not enough(high) and high < MOST_EXAMPLES:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check_like(values: Values, dense: Values, comparison: Comparison, whose: str) -> None:
    """Refuse values that can't be paired with the dense model's.

    Raises:
        CertificateError: another number of rows or statistics; or other values than 0 and 1 where the test is exact.
    """
    if values.shape != dense.shape:
        raise CertificateError(
            f"{whose}: the judge gave values of shape {values.shape}, and {dense.shape} for the dense model; both must "
            "be judged on the same examples, in the same order"
        )
    needs = comparison.test == "exact" or (comparison.test == "betting" and comparison.metric.bounds is None)
    if needs and not is_binary(values):
        raise CertificateError(
            f"{whose}: values other than 0 and 1, where the dense model has none; say with bounds= between what they "
            "lie"
        )
