"""What a criterion hands back where it has more to say than one number per head."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """What a criterion returns that has more to say than one number per head; `HeadScores` holds the same.

    Attributes:
        rows: layer name -> (h,), one score for every head that the layer has now, by position; larger = keep.
        examples: how many examples the rows, and the interactions, are means over; None where they are no such means.
        interactions: layer name -> (h, h), where removing the set S of a layer's heads costs the sum over S × S.
        errors: layer name -> (h,), the standard error of each score.
    """

    rows: Mapping[str, Tensor]
    examples: int | None = None
    interactions: Mapping[str, Tensor] | None = None
    errors: Mapping[str, Tensor] | None = None
