"""From values of a ladder of candidates to verdicts, whose chance of any mistake is bounded together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mha.certifying.evidence import Comparison, Evidence
from mha.certifying.judge import Values

Testing = Literal["sequence", "holm"]


@dataclass(frozen=True)
class Verdict:
    """What came of testing one candidate.

    Attributes:
        evidence: of its loss.
        p: the p-value of "the loss is the one that is allowed, or more".
        level: what p may be at most.
    """

    evidence: Evidence
    p: float
    level: float

    @property
    def shown(self) -> bool:
        """Whether the loss was shown to be at most the one that is allowed."""
        return self.p <= self.level


def verdicts(
    comparison: Comparison,
    dense: Values,
    ladder: Iterable[Values],
    *,
    count: int,
    at_most: float,
    risk: float,
    testing: Testing,
) -> list[Verdict]:
    """A verdict for each candidate that is tested, the mildest first; with a chance of at most `risk`, any is wrong.

    In sequence, each is tested at the level `risk` until one can't be shown, and the values of further ones are not
    asked for. Any mistake begins with the first candidate that loses more than is allowed, and the chance that this one
    is shown is at most `risk`. By Holm's procedure all are tested.

    Args:
        dense: the dense model's values.
        ladder: the candidates' values.
        count: how many candidates there are.
        at_most: the loss that is allowed.
    """
    level = tested_at(risk, count, testing)
    found = []
    for values in ladder:
        evidence = comparison.evidence(dense, values)
        found.append(Verdict(evidence, evidence.p_value(at_most, level), level))
        if testing == "sequence" and not found[-1].shown:
            break
    return found if testing == "sequence" else _by_holm(found, risk)


def tested_at(risk: float, count: int, testing: Testing) -> float:
    """The level at which a candidate may have to be tested: Holm's first is tested at that of Bonferroni."""
    return risk / count if testing == "holm" else risk


def last_shown(found: Sequence[Verdict]) -> int | None:
    """The place of the last candidate that was shown, the boldest; None where none was."""
    return max((place for place, verdict in enumerate(found) if verdict.shown), default=None)


def _by_holm(found: Sequence[Verdict], risk: float) -> list[Verdict]:
    """The same at the levels of Holm's procedure: the k-th smallest p-value at risk / (count - k + 1).

    All after the first that fails keep that one's level, by which they fail too.
    """
    judged = list(found)
    failed: float | None = None
    for rank, place in enumerate(np.argsort([verdict.p for verdict in found], kind="stable")):
        level = risk / (len(found) - rank) if failed is None else failed
        judged[place] = Verdict(found[place].evidence, found[place].p, level)
        failed = level if not judged[place].shown else failed
    return judged
