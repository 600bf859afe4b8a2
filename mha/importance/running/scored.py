"""What a criterion hands back where it has more to say than one number per head."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """One number per head, and what else `HeadScores` holds.

    Attributes:
        rows: layer name -> (h,), larger = keep.
        examples: how many examples the rows, and the interactions, are means over; None where they are none.
        interactions: layer name -> (h, h).
        errors: layer name -> (h,), standard errors.
    """

    rows: Mapping[str, Tensor]
    examples: int | None = None
    interactions: Mapping[str, Tensor] | None = None
    errors: Mapping[str, Tensor] | None = None
