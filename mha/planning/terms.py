"""What is asked of a plan beside its budget."""

from collections.abc import Mapping
from dataclasses import dataclass

from mha.costs.shapes import Shape
from mha.values.errors import ScoresError


@dataclass(frozen=True)
class Terms:
    """What is asked of a plan beside its budget.

    Attributes:
        min_heads: no layer keeps fewer; or layer -> the fewest that it keeps, 0 where not named.
        uniform: whether all layers keep the same number of heads; those with several heads per key/value group also
            the same number of groups.
        multiple_of: what every layer's number of key/value groups is divisible by.
        whole_groups: whether every key/value group keeps all of its heads, or leaves.

    Raises:
        ScoresError: `multiple_of` is no whole number from 1 on, or `uniform` or `whole_groups` is no bool.
    """

    min_heads: int | Mapping[str, int] = 0
    uniform: bool = False
    multiple_of: int = 1
    whole_groups: bool = False

    def __post_init__(self) -> None:
        divisor = self.multiple_of
        if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 1:
            raise ScoresError(f"multiple_of is a whole number, 1 or more, got {divisor!r}")
        for name in ("uniform", "whole_groups"):
            if not isinstance(getattr(self, name), bool):
                raise ScoresError(f"{name} is True or False, got {getattr(self, name)!r}")

    def floor_of(self, name: str) -> int:
        """The fewest heads that the layer of this name may keep, by `min_heads`."""
        return self.min_heads.get(name, 0) if isinstance(self.min_heads, Mapping) else self.min_heads

    def allow(self, shape: Shape, whole: Shape) -> bool:
        """Whether `multiple_of` and `whole_groups` allow that a layer of shape `whole` is pruned to this shape."""
        of_whole_groups = not self.whole_groups or not shape.heads or shape.per_group == whole.per_group
        return of_whole_groups and _divides(self.multiple_of, shape, whole)

    def in_words(self, layers: int) -> str:
        """The terms as the end of a sentence, for errors, about a model with that number of scored layers."""
        asked = {
            "the same number in every layer": self.uniform,
            f"numbers of key/value groups that are multiples of {self.multiple_of}": self.multiple_of > 1,
            "whole key/value groups": self.whole_groups,
        }
        return ", ".join(
            [f"at least {self.min_heads} in each of {layers} layers", *(words for words, yes in asked.items() if yes)]
        )


def _divides(ranks: int, shape: Shape, whole: Shape) -> bool:
    """Whether a layer that is pruned to this shape can be divided among so many ranks of tensor parallelism.

    Every rank gets the same number of groups. A layer that has fewer groups than ranks from the start, as in
    multi-query attention, is divided by its query heads instead, and ranks hold copies of the groups.

    Args:
        shape, whole: of the layer after pruning, and from the start.
    """
    if shape.groups % ranks == 0:
        return True
    return whole.groups < ranks and shape.heads % ranks == 0 and ranks % shape.groups == 0
