"""What a layer's cost depends on: how many query heads it keeps, and how many key/value groups they stand in."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mha.values.errors import PlanError


class Shape(NamedTuple):
    """How many query heads a layer has, in how many key/value groups; as many groups as heads in plain attention.

    Example:
        >>> mha.costs.Shape(heads=8, groups=4).per_group
        2
    """

    heads: int
    groups: int

    @property
    def per_group(self) -> int:
        """Query heads in each key/value group."""
        return self.heads // self.groups if self.groups else 0


def feasible_shapes(whole: Shape) -> Iterator[Shape]:
    """Every shape that a layer can be pruned to: without heads, or k groups with the same number of heads in each.

    Example:
        >>> [tuple(shape) for shape in mha.costs.feasible_shapes(mha.costs.Shape(heads=4, groups=2))]
        [(0, 0), (1, 1), (2, 2), (2, 1), (4, 2)]
    """
    yield Shape(0, 0)
    for per_group in range(1, whole.per_group + 1):
        for groups in range(1, whole.groups + 1):
            yield Shape(groups * per_group, groups)


def first_heads(heads: Sequence[int], whole: Shape, shape: Shape) -> list[int]:
    """Original numbers of heads that give a layer that shape: the first few of each of the first few groups.

    Args:
        heads: original numbers of the heads that the layer has.
        whole: the shape of the layer with all of these heads.
        shape: the shape that it is to have.
    """
    return [heads[group * whole.per_group + place] for group in range(shape.groups) for place in range(shape.per_group)]


def shape_of(name: str, heads: Sequence[int], whole: Shape, kept: Sequence[int]) -> Shape:
    """The shape of layer `name` when of its `heads` only the heads `kept` stay, both by original numbers.

    Args:
        whole: the shape of the layer with all of its `heads`.

    Raises:
        PlanError: `kept` has a head that `heads` has not, or groups would keep different numbers of heads.
    """
    if missing := sorted(set(kept) - set(heads)):
        raise PlanError(f"layer {name!r}: the costs are of heads {list(heads)}, and the plan keeps {missing}")
    members: dict[int, int] = {}
    for head in kept:
        group = heads.index(head) // whole.per_group
        members[group] = members.get(group, 0) + 1
    if len(set(members.values())) > 1:
        raise PlanError(
            f"layer {name!r}: every key/value group that stays must keep the same number of query heads, "
            f"got {members} (group: heads); mha.choose returns only plans that do"
        )
    return Shape(len(kept), len(members))
