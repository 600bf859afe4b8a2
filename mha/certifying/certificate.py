"""What was shown: a row for each candidate that was tested, and the model that the promise is about."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from mha.certifying.changes import Slice
from mha.certifying.evidence import Test
from mha.certifying.selection import Testing
from mha.values.documents import Kind, entry, flag, mapping, number, sequence, text, whole_number, whole_numbers
from mha.values.errors import CertificateError
from mha.values.optional_packages import needed
from mha.values.plan import HeadPlan

if TYPE_CHECKING:
    import pandas as pd

DOCUMENT = Kind("mha.Certificate", 1, "a certificate", CertificateError)
HOW: dict[str, str] = {
    "exact": "exact test of flips, for any number of examples",
    "betting": "betting test of bounded values, for any number of examples",
    "asymptotic": "asymptotic test, which holds for many examples",
}


@dataclass(frozen=True)
class Tested:
    """One candidate that was tested.

    Attributes:
        plan: the heads that it keeps in every layer.
        heads: how many these are.
        latency: its predicted latency as a share of the dense model's; None where no costs were given.
        value: its metric.
        loss: what the metric was seen to lose against the dense model, in the unit of `at_most`; positive is worse.
        upper: the upper bound of that loss, at the level of the test; infinite where there is none.
        p: the p-value of "the loss is `at_most` or more".
        level: that of the test: what p may be at most.
        shown: whether the loss was shown to be at most `at_most`.
        worse, better: how many examples changed to the worse, and to the better; None where an example has several
            statistics.
        slices: what the slices lose, the worst first.
    """

    plan: HeadPlan
    heads: int
    latency: float | None
    value: float
    loss: float
    upper: float
    p: float
    level: float
    shown: bool
    worse: int | None
    better: int | None
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, repr=False)
class Certificate:
    """The smallest (or fastest) model of a ladder that was shown to lose at most so much; it prints as a sentence.

    Attributes:
        at_most: the loss of the metric that is allowed, absolute or as a share of the dense metric (`relative`).
        confidence: the chance that a call of `mha.certify` keeps its promise is at least this.
        relative: whether losses are shares of the dense metric.
        metric: what the metric is called.
        dense: the dense model's metric.
        heads: how many heads the dense model has.
        examples: how many were judged.
        binary: whether each value is 0 or 1, so that examples flip.
        points: whether values lie between 0 and 1, so that losses are told in points, hundredths.
        test: "exact", "betting" or "asymptotic", as `mha.certify` describes them.
        testing: "sequence" or "holm".
        candidates: how many there were.
        rows: those that were tested, in order.
        chosen: the place in `rows` of the model; None where the dense model is returned.
        whole: the plan that keeps all heads.
        model: the model itself; None in a certificate that was read from a file.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), mha.MultiHeadAttention.square(8, 4))
        >>> def values(model, x):
        ...     y = model[0](x)
        ...     return (model[1](y, y, y) ** 2).sum((1, 2)) > 0
        >>> judge = mha.Judge([torch.randn(400, 5, 3)], values, metric="accuracy")
        >>> plans = [mha.HeadPlan({"1": (0, 1, 2)}), mha.HeadPlan({"1": ()})]
        >>> certificate = mha.certify(model, plans, judge, at_most=0.01)
        >>> certificate.to_json("certificate.json")
        >>> print(mha.Certificate.from_json("certificate.json"))
        At 95 % confidence, 1 of 4 heads removed costs at most 1.0 points of accuracy (seen: 0.0 points on 400
        examples, 0 flips to the worse, 0 to the better); the next step of the ladder, 4 removed, could not be shown:
        upper bound 100.0 points. (exact test of flips, for any number of examples)
    """

    at_most: float
    confidence: float
    relative: bool
    metric: str
    dense: float
    heads: int
    examples: int
    binary: bool
    points: bool
    test: Test
    testing: Testing
    candidates: int
    rows: tuple[Tested, ...]
    chosen: int | None
    whole: HeadPlan
    model: nn.Module | None = field(default=None, compare=False)

    @property
    def plan(self) -> HeadPlan:
        """The heads that the model keeps in every layer; all of them where the dense model is returned."""
        return self.whole if self.chosen is None else self.rows[self.chosen].plan

    @property
    def is_dense(self) -> bool:
        """Whether nothing could be shown, so that the dense model is returned."""
        return self.chosen is None

    def __repr__(self) -> str:
        begin = f"At {100 * self.confidence:g} % confidence, "
        if self.chosen is None:
            row = self.rows[0]
            said = (
                f"no step of the ladder was shown to cost at most {self._loss(self.at_most)} of {self.metric}, and the "
                f"dense model is returned; the first step, {self._removed(row)} of {self.heads} heads removed, has the "
                f"upper bound {self._loss(row.upper)} ({self._seen(row)})"
            )
        else:
            row = self.rows[self.chosen]
            said = (
                f"{self._removed(row)} of {self.heads} heads removed costs at most {self._loss(self.at_most)} of "
                f"{self.metric} ({self._seen(row)}){self._next()}"
            )
        return f"{begin}{said}. ({HOW[self.test]})"

    def to_frame(self) -> "pd.DataFrame":
        """A row for each tested candidate: heads, latency, value, loss, upper, p, level, shown, worse, better."""
        needed("pandas", "plot", "to make a frame")
        import pandas as pd

        rows = [{key: value for key, value in vars(row).items() if key not in ("plan", "slices")} for row in self.rows]
        return pd.DataFrame(rows)

    def slices(self) -> "pd.DataFrame":
        """A row for each slice of each tested candidate: candidate (its place), name, examples, loss, low, high."""
        needed("pandas", "plot", "to make a frame")
        import pandas as pd

        rows = [{"candidate": place, **asdict(part)} for place, row in enumerate(self.rows) for part in row.slices]
        return pd.DataFrame(rows, columns=["candidate", "name", "examples", "loss", "low", "high"])

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the model to `path`; the file appears whole or not at all. Infinite bounds are null."""
        content = {key: value for key, value in vars(self).items() if key != "model"}
        rows = [
            {
                **asdict(row),
                "plan": dict(row.plan),
                "upper": _finite(row.upper),
                "slices": [
                    {**asdict(part), "low": _finite(part.low), "high": _finite(part.high)} for part in row.slices
                ],
            }
            for row in self.rows
        ]
        DOCUMENT.write(path, {**content, "whole": dict(self.whole), "rows": rows})

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `to_json` wrote; the certificate has no model.

        Raises:
            CertificateError: the file can't be read, is cut off, foreign, damaged or of another version.
        """
        document = DOCUMENT.read(path)
        with DOCUMENT.checked(path, "certify again"):
            return cls(**_arguments(document))

    def _next(self) -> str:
        """What came of the candidates that were not chosen."""
        assert self.chosen is not None
        shown = sum(row.shown for row in self.rows)
        if self.testing == "holm":
            return f"; {shown} of {self.candidates} candidates were shown, by Holm's procedure"
        if self.chosen + 1 == len(self.rows):
            return "; it is the last step of the ladder"
        row = self.rows[self.chosen + 1]
        return (
            f"; the next step of the ladder, {self._removed(row)} removed, could not be shown: upper bound "
            f"{self._loss(row.upper)}"
        )

    def _removed(self, row: Tested) -> int:
        return self.heads - row.heads

    def _seen(self, row: Tested) -> str:
        """What was seen of a candidate."""
        seen = f"seen: {self._loss(row.loss)} on {self.examples:,} examples"
        if row.worse is None:
            return seen
        what = "changed" if not self.binary else "flip" if row.worse == 1 else "flips"
        return f"{seen}, {row.worse:,} {what} to the worse, {row.better:,} to the better"

    def _loss(self, loss: float) -> str:
        """A loss in its unit."""
        if self.relative:
            return f"{100 * loss:.1f} %"
        return f"{100 * loss:.1f} points" if self.points else f"{loss:.3g}"


def _arguments(document: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Certificate` that the document holds, by name.

    Raises:
        ValueError: an entry is missing, or is not of the type that belongs there.
    """
    rows = tuple(_tested(row, f"row {place}") for place, row in enumerate(sequence(entry(document, "rows"), "rows")))
    chosen = entry(document, "chosen")
    if chosen is not None and whole_number(chosen, "chosen") >= len(rows):
        raise ValueError(f"chosen: expected the place of one of {len(rows)} rows, got {chosen}")
    test = text(entry(document, "test"), "test")
    if test not in HOW:
        raise ValueError(f"test: expected one of {', '.join(HOW)}, got {test!r}")
    return {
        **{name: number(entry(document, name), name) for name in ("at_most", "confidence", "dense")},
        **{name: flag(entry(document, name), name) for name in ("relative", "binary", "points")},
        **{name: text(entry(document, name), name) for name in ("metric", "testing")},
        **{name: whole_number(entry(document, name), name) for name in ("heads", "examples", "candidates")},
        "test": test,
        "rows": rows,
        "chosen": chosen,
        "whole": _plan(entry(document, "whole"), "whole"),
    }


def _tested(row: Any, where: str) -> Tested:
    """A tested candidate from its entry in a file, which errors call `where`."""
    row = mapping(row, where)
    latency, worse, better = (entry(row, name) for name in ("latency", "worse", "better"))
    return Tested(
        plan=_plan(entry(row, "plan"), where),
        heads=whole_number(entry(row, "heads"), where),
        latency=None if latency is None else number(latency, where),
        worse=None if worse is None else whole_number(worse, where),
        better=None if better is None else whole_number(better, where),
        shown=flag(entry(row, "shown"), where),
        upper=_bound(entry(row, "upper"), where, math.inf),
        slices=tuple(_slice(part, where) for part in sequence(entry(row, "slices"), where)),
        **{name: number(entry(row, name), where) for name in ("value", "loss", "p", "level")},
    )


def _slice(part: Any, where: str) -> Slice:
    """What a slice loses, from its entry in a file."""
    part = mapping(part, where)
    return Slice(
        text(entry(part, "name"), where),
        whole_number(entry(part, "examples"), where),
        number(entry(part, "loss"), where),
        _bound(entry(part, "low"), where, -math.inf),
        _bound(entry(part, "high"), where, math.inf),
    )


def _bound(value: Any, where: str, infinite: float) -> float:
    """A bound from its entry in a file: null stands for this infinite one."""
    return infinite if value is None else number(value, where)


def _finite(bound: float) -> float | None:
    """The bound as it is written to a file."""
    return bound if math.isfinite(bound) else None


def _plan(keep: Any, where: str) -> HeadPlan:
    return HeadPlan({name: whole_numbers(heads, where) for name, heads in mapping(keep, where).items()})
