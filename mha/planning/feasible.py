"""What layers may keep: every feasible shape with its best heads, and which of the shapes are asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mha.costs.shapes import Shape
from mha.values.errors import ScoresError
from mha.values.plan import HeadScores


@dataclass(frozen=True)
class Terms:
    """What is asked of a plan beside its budget.

    Attributes:
        min_heads: no layer keeps fewer; or layer -> the fewest that it keeps, 0 where not named.
        uniform: all layers have one number of heads, those with several heads per key/value group also one number of
            groups.
        multiple_of: what every layer's number of key/value groups is divisible by.
        whole_groups: a key/value group keeps all of its heads, or leaves.
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
        return self.min_heads.get(name, 0) if isinstance(self.min_heads, Mapping) else self.min_heads

    def allow(self, shape: Shape, whole: Shape) -> bool:
        """Whether a layer of that shape may be pruned to this one, as far as groups go."""
        of_whole_groups = not self.whole_groups or not shape.heads or shape.per_group == whole.per_group
        return of_whole_groups and _divides(self.multiple_of, shape, whole)

    def told(self, layers: int) -> str:
        """As the end of a sentence about a model of so many scored layers."""
        asked = {
            "the same number in every layer": self.uniform,
            f"numbers of key/value groups that are multiples of {self.multiple_of}": self.multiple_of > 1,
            "whole key/value groups": self.whole_groups,
        }
        return ", ".join(
            [f"at least {self.min_heads} in each of {layers} layers", *(words for words, yes in asked.items() if yes)]
        )


@dataclass(frozen=True)
class Choice:
    """The best way for a layer to have a certain shape."""

    value: float  # total score
    heads: tuple[int, ...]  # original numbers


Options = Mapping[str, Mapping[Shape, Choice]]  # of each layer, every shape that the terms allow
Alternative = Mapping[str, Shape]  # of layers that are decided together


def options_of(scores: HeadScores, terms: Terms) -> Options:
    """
    Raises:
        ScoresError: a layer that can't keep as few or as many heads as the terms ask for.
    """
    named = terms.min_heads if isinstance(terms.min_heads, Mapping) else ()
    if unknown := [name for name in named if name not in scores.scores]:
        raise ScoresError(f"min_heads names layers without scores: {unknown}; scored are {list(scores.scores)}")
    return {name: _layer_options(scores, name, terms) for name in scores.scores}


def alternatives(scores: HeadScores, options: Options, terms: Terms) -> list[Sequence[Alternative]]:
    """For each part of the model that is decided on its own, what it may become: a layer, or all of them alike.

    Raises:
        ScoresError: no number of heads that every layer may keep.
    """
    if not terms.uniform or not options:
        return [[{name: shape} for shape in layer] for name, layer in options.items()]
    alike = list(_alike(scores, options))
    if not alike:
        raise ScoresError(
            f"no feasible plan has {terms.told(len(options))}; layers may keep one by one: {told_counts(options)}"
        )
    return [alike]


def told_counts(options: Options) -> str:
    """How many heads layers may keep, the first layer of each kind."""
    kinds: dict[tuple[int, ...], str] = {}
    for name, layer in options.items():
        kinds.setdefault(tuple(sorted({shape.heads for shape in layer})), name)
    return "; ".join(f"{name!r} {list(counts)}" for counts, name in kinds.items())


def _divides(number: int, shape: Shape, whole: Shape) -> bool:
    """Whether so many ranks can share the layer.

    Each gets as many groups as another; of fewer groups than ranks to begin with, as in multi-query attention, each
    rank holds a copy, and shares their query heads.
    """
    if shape.groups % number == 0:
        return True
    return whole.groups < number and shape.heads % number == 0 and number % shape.groups == 0


def _layer_options(scores: HeadScores, name: str, terms: Terms) -> dict[Shape, Choice]:
    """Shape -> the best heads of that shape, for every one that the terms allow."""
    values, ids, fewest = scores.scores[name].numpy(), scores.heads[name], terms.floor_of(name)
    if len(values) < fewest:
        raise ScoresError(f"layer {name!r} has only {len(values)} heads, fewer than min_heads={fewest}")
    whole = Shape(len(values), scores.groups[name])
    options = {
        shape: Choice(float(values[kept].sum()), tuple(ids[i] for i in sorted(kept)))
        for shape, kept in _group_choices(values, whole.groups)
        if terms.allow(shape, whole)
    }
    enough = {shape: choice for shape, choice in options.items() if shape.heads >= fewest}
    if not enough:
        raise ScoresError(
            f"layer {name!r}: of its {whole.heads} heads in {whole.groups} key/value groups it may keep "
            f"{sorted({shape.heads for shape in options})}, none of them at least min_heads={fewest}"
        )
    return enough


def _group_choices(values: np.ndarray, groups: int) -> Iterator[tuple[Shape, list[int]]]:
    """For every feasible shape, the positions with the largest total score."""
    yield Shape(0, 0), []
    if groups == 0:
        return
    ranked = np.argsort(-values.reshape(groups, -1), axis=1, kind="stable")
    per_group = ranked.shape[1]
    for heads in range(1, per_group + 1):
        members = ranked[:, :heads] + per_group * np.arange(groups)[:, None]
        order = np.argsort(-values[members].sum(axis=1), kind="stable")
        for count in range(1, groups + 1):
            yield Shape(count * heads, count), members[order[:count]].ravel().tolist()


def _alike(scores: HeadScores, options: Options) -> Iterator[Alternative]:
    """Every number of heads, and of groups where those hold several, that all layers may keep."""
    grouped = [name for name in options if scores.groups[name] < len(scores.heads[name])]
    for shape in options[grouped[0] if grouped else next(iter(options))]:
        alike = {name: shape if name in grouped else Shape(shape.heads, shape.heads) for name in options}
        if all(alike[name] in layer for name, layer in options.items()):
            yield alike
