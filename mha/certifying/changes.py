"""What changes beside the mean: examples that become worse or better, and parts of the examples that lose most."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mha.certifying.evidence import Comparison
from mha.certifying.judge import Values
from mha.values.errors import CertificateError


@dataclass(frozen=True)
class Slice:
    """What a part of the examples loses.

    Attributes:
        name: of the part.
        examples: how many it has.
        loss: of the metric, on these examples; positive is worse.
        low, high: the interval of the loss; all of a candidate hold together with the certificate's confidence.
            Infinite where so few examples say nothing.
    """

    name: str
    examples: int
    loss: float
    low: float
    high: float


def checked_slices(slices: Mapping[str, object] | None, examples: int) -> dict[str, NDArray[np.bool_]]:
    """The slices as masks over the judge's examples.

    Raises:
        CertificateError: one is no boolean mask over all examples, or names none.
    """
    masks = {name: np.asarray(mask) for name, mask in (slices or {}).items()}
    for name, mask in masks.items():
        if mask.shape != (examples,) or mask.dtype != bool:
            raise CertificateError(
                f"slice {name!r}: expected a boolean for each of the judge's {examples} examples, got {mask.dtype} of "
                f"shape {mask.shape}"
            )
        if not mask.any():
            raise CertificateError(f"slice {name!r} has no examples; leave it out")
    return masks


def sliced(
    comparison: Comparison, dense: Values, values: Values, masks: Mapping[str, NDArray[np.bool_]], level: float
) -> tuple[Slice, ...]:
    """What each slice loses, the worst first; their intervals hold together with confidence 1 - level (Bonferroni)."""
    plain = replace(comparison, relative=False)
    found = []
    for name, mask in masks.items():
        before, after = dense[mask], values[mask]
        loss, gain = plain.evidence(before, after), plain.evidence(after, before)
        each = level / (2 * len(masks))
        found.append(Slice(name, int(mask.sum()), loss.loss, -gain.upper(each), loss.upper(each)))
    return tuple(sorted(found, key=lambda part: -part.loss))


def flips(dense: Values, values: Values, higher_is_better: bool) -> tuple[int, int] | None:
    """How many examples became worse, and how many better; None where an example has several statistics."""
    if dense.ndim > 1:
        return None
    worse = dense > values if higher_is_better else dense < values
    return int(worse.sum()), int((dense != values).sum() - worse.sum())
