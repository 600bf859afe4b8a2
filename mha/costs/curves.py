"""From seconds at a few shapes to seconds at every shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mha.costs.shapes import Shape, feasible_shapes

NONE = Shape(0, 0)


@dataclass
class _Axis:
    """The numbers (of groups, or of heads in each group) at which times are measured, denser where they aren't linear.

    Attributes:
        points: these numbers, in ascending order.
        gaps: pairs of neighbouring points between which `split` adds one next.
        tried: the gaps that were split last, as (low, added point, high).
    """

    points: list[int]
    gaps: list[tuple[int, int]] = field(init=False)
    tried: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.points = sorted({point for point in self.points if 1 <= point <= max(self.points)})
        self.gaps = list(zip(self.points, self.points[1:], strict=False))

    def split(self, bends: Callable[[int, int, int], bool]) -> None:
        """Add a point in each gap; after the first call, only in the gaps beside added points where times bend.

        Args:
            bends: (low, middle, high) -> whether the time at an added point is off the line between its neighbours'.
        """
        for low, middle, high in self.tried:
            if bends(low, middle, high):
                self.gaps += [(low, middle), (middle, high)]
        self.tried = [(low, _between(low, high), high) for low, high in self.gaps if high - low > 1]
        self.gaps = []
        self.points = sorted({*self.points, *(middle for _, middle, _ in self.tried)})


class Grid:
    """The shapes at which a layer is measured: all pairs of some numbers of groups and some of heads in each group.

    Plain attention has one head in each group, and so a single row.

    Args:
        whole: the shape of the layer with all of its heads.
    """

    def __init__(self, whole: Shape) -> None:
        self.whole = whole
        groups, per_group = whole.groups, whole.per_group
        self._groups = _Axis([1, 2, (groups + 1) // 2, groups] if groups > 1 else [groups])
        self._per_group = _Axis([1, 2, (per_group + 1) // 2, per_group] if groups == 1 else [1, per_group])

    def shapes(self) -> list[Shape]:
        """The shapes to measure at; no head and all heads are among them."""
        if not self.whole.heads:
            return [NONE]
        return [NONE, *(_shape(k, m) for m in self._per_group.points for k in self._groups.points)]

    def refine(self, bends: Callable[[Shape, Shape, Shape], bool]) -> None:
        """Add shapes between all present ones; after the first call, only beside added shapes whose times bend.

        Args:
            bends: (low, middle, high) -> whether the time of the added shape in the middle is off the line between
                those of the other two.
        """
        groups, per_group = tuple(self._groups.points), tuple(self._per_group.points)
        if self.whole.heads:
            self._groups.split(lambda *k: any(bends(*(_shape(point, m) for point in k)) for m in per_group))
            self._per_group.split(lambda *m: any(bends(*(_shape(k, point) for point in m)) for k in groups))

    def fill(self, seconds: Mapping[Shape, float]) -> dict[Shape, float]:
        """Shape -> seconds at every feasible shape: linear between measured ones, not less for more heads or groups.

        Noise that lets more heads take less is averaged away (isotonic regression along both axes).

        Args:
            seconds: what was measured at each of `shapes()`.
        """
        if not self.whole.heads:
            return {NONE: seconds[NONE]}
        ks, ms = self._groups.points, self._per_group.points
        known = np.array([[seconds[_shape(k, m)] for k in ks] for m in ms])
        known = np.apply_along_axis(rising, 0, np.apply_along_axis(rising, 1, known))  # keeps rows rising
        every_k, every_m = range(1, self.whole.groups + 1), range(1, self.whole.per_group + 1)
        rows = np.array([np.interp(every_k, ks, row) for row in known])
        full = np.array([np.interp(every_m, ms, column) for column in rows.T]).T
        filled = {_shape(k, m): float(full[m - 1, k - 1]) for m in every_m for k in every_k}
        filled[NONE] = min(seconds[NONE], float(full.min()))
        return {shape: filled[shape] for shape in feasible_shapes(self.whole)}


def rising(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The never falling sequence closest to these values, by squares (Barlow et al. 1972: pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] >= mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    return np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])


def _between(low: int, high: int) -> int:
    """The whole number two fifths of the way from one to the other.

    Halfway, a time that rises in steps of 8 or 16 heads would often lie on a straight line.
    """
    return low + max(1, 2 * (high - low) // 5)


def _shape(groups: int, per_group: int) -> Shape:
    """The shape of so many groups with so many heads in each."""
    return Shape(groups * per_group, groups)
