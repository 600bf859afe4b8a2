"""What layers may keep: every feasible shape with its best heads, and which of the shapes are asked for."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mha.costs.shapes import Shape
from mha.planning.terms import Terms
from mha.planning.tied_layers import Alike, Tie
from mha.values.errors import ScoresError
from mha.values.plan import HeadScores

Values = NDArray[np.float64]
MOST_COMBINATIONS = 4096  # of numbers of heads per group, in layers that share keys: beyond, all layers keep as many


@dataclass(frozen=True)
class Choice:
    """The best way for a layer to have a certain shape.

    Attributes:
        shape: how many heads are kept, in how many groups.
        value: total score of the heads that are kept.
        heads: original numbers of the heads that are kept.
    """

    shape: Shape
    value: float
    heads: tuple[int, ...]


Alternative = Mapping[str, Choice]  # one way for layers that are decided together
Part = Sequence[Alternative]  # all ways for these layers


def parts_of(
    scores: HeadScores, terms: Terms, ties: Iterable[Tie] = (), known: Mapping[str, Sequence[Choice]] | None = None
) -> list[Part]:
    """For each layer, or set of tied layers, every feasible way to prune it that the terms allow, other layers aside.

    Args:
        known: layer -> its choices, where more is known of them than the scores of single heads say; of layers that are
            tied to others nothing more is known.

    Raises:
        ScoresError: a layer can't keep as many heads as `terms.min_heads` asks for, or that names one without scores.
    """
    named = terms.min_heads if isinstance(terms.min_heads, Mapping) else ()
    if unknown := [name for name in named if name not in scores.scores]:
        raise ScoresError(f"min_heads names layers without scores: {unknown}; scored are {list(scores.scores)}")
    tie_of = {name: tie for tie in ties for name in tie.layers}
    together = dict.fromkeys(tie_of.get(name, Tie((name,), Alike.HEADS)) for name in scores.scores)
    return [_allowed(scores, tie, terms, known or {}) for tie in together]


def alike(scores: HeadScores, parts: Sequence[Part], terms: Terms) -> Part:
    """Every way for all layers to keep the same number of heads; layers of grouped attention also as many groups.

    Args:
        parts: for each layer, or set of tied layers, the ways that are allowed by itself.
        terms: what was asked for, for the error.

    Raises:
        ScoresError: there is no such way.
    """
    ways = list(_alike(scores, parts))
    if not ways:
        raise ScoresError(
            f"no feasible plan has {terms.in_words(len(scores.scores))}; layers may keep one by one: "
            f"{counts_in_words(parts)}"
        )
    return ways


def counts_in_words(parts: Iterable[Part]) -> str:
    """Which numbers of heads layers may keep, as text for an error, such as "'0' [0, 2, 4]; '3' [0, 8]".

    Of layers that may keep the same numbers only the first is named.
    """
    kinds: dict[tuple[int, ...], str] = {}
    for part in parts:
        for name in part[0]:
            kinds.setdefault(tuple(sorted({way[name].shape.heads for way in part})), name)
    return "; ".join(f"{name!r} {list(counts)}" for counts, name in kinds.items())


def _alike(scores: HeadScores, parts: Sequence[Part]) -> Iterator[Alternative]:
    """Yield, for each shape that all layers may have, the way that gives it to all: one way of each part, joined."""
    by_shapes = [{tuple((name, way[name].shape) for name in way): way for way in part} for part in parts]
    grouped = {name for name in scores.scores if scores.groups[name] < len(scores.heads[name])}
    first = next((name for name in scores.scores if name in grouped), next(iter(scores.scores)))
    for shape in [way[first].shape for part in parts if first in part[0] for way in part]:
        plain = Shape(shape.heads, shape.heads)
        wanted = [tuple((name, shape if name in grouped else plain) for name in part[0]) for part in parts]
        if all(shapes in ways for shapes, ways in zip(wanted, by_shapes, strict=True)):
            ways = [ways[shapes] for shapes, ways in zip(wanted, by_shapes, strict=True)]
            yield {name: choice for way in ways for name, choice in way.items()}


def _allowed(scores: HeadScores, tie: Tie, terms: Terms, known: Mapping[str, Sequence[Choice]]) -> Part:
    """Every feasible way for the layers of a tie that the terms allow.

    Raises:
        ScoresError: a layer has fewer heads than `terms.min_heads` asks for, or none of the allowed ways keeps as many.
    """
    names = [name for name in scores.scores if name in tie.layers]
    whole = {name: Shape(len(scores.heads[name]), scores.groups[name]) for name in names}
    for name in names:
        if whole[name].heads < terms.floor_of(name):
            raise ScoresError(
                f"layer {name!r} has only {whole[name].heads} heads, fewer than min_heads={terms.floor_of(name)}"
            )
    allowed = [
        way
        for way in _known_or_scored(scores, names, tie, known)
        if all(terms.allow(choice.shape, whole[name]) for name, choice in way.items())
    ]
    enough = [way for way in allowed if all(way[name].shape.heads >= terms.floor_of(name) for name in names)]
    if not enough:
        raise ScoresError(_why_too_few(names, whole, allowed, terms))
    return enough


def _known_or_scored(
    scores: HeadScores, names: Sequence[str], tie: Tie, known: Mapping[str, Sequence[Choice]]
) -> Iterable[Alternative]:
    """Every feasible way for the scored layers `names` of a tie, by what is known of it or else by the scores."""
    if len(tie.layers) == 1 and names[0] in known:
        return [{names[0]: choice} for choice in known[names[0]]]
    return _ways(scores, names, tie)


def _why_too_few(names: Sequence[str], whole: Mapping[str, Shape], allowed: Part, terms: Terms) -> str:
    """The message of the error that no allowed way for these layers keeps as many heads as `terms.min_heads` says."""
    if len(names) == 1:
        (name,) = names
        return (
            f"layer {name!r}: of its {whole[name].heads} heads in {whole[name].groups} key/value groups it may keep "
            f"{sorted({way[name].shape.heads for way in allowed})}, none of them at least "
            f"min_heads={terms.floor_of(name)}"
        )
    counts = sorted({tuple(way[name].shape.heads for name in names) for way in allowed})
    return (
        f"layers {', '.join(map(repr, names))} share weights, and so lose heads together: they may keep {counts} of "
        f"them, none of these at least min_heads={[terms.floor_of(name) for name in names]}"
    )


def _ways(scores: HeadScores, names: Sequence[str], tie: Tie) -> Iterator[Alternative]:
    """Yield every feasible way for the scored layers `names` of a tie.

    A layer of the tie that is not scored stays whole; beside it, only ways are feasible that keep what is shared whole.
    """
    whole = {name: Shape(len(scores.heads[name]), scores.groups[name]) for name in names}
    beside_unscored = len(names) < len(tie.layers)
    for shapes, positions in _kept(scores, names, tie.alike):
        same = all(
            shape.groups == whole[name].groups if tie.alike is Alike.GROUPS else shape == whole[name]
            for name, shape in zip(names, shapes, strict=True)
        )
        if same or not beside_unscored:
            yield {
                name: _choice(scores, name, shape, kept)
                for name, shape, kept in zip(names, shapes, positions, strict=True)
            }


def _choice(scores: HeadScores, name: str, shape: Shape, positions: list[int]) -> Choice:
    """The choice that keeps the heads at these positions of the layer."""
    heads = scores.heads[name]
    value = float(scores.scores[name].numpy()[positions].sum())
    return Choice(shape, value, tuple(heads[position] for position in sorted(positions)))


Kept = tuple[Sequence[Shape], Sequence[list[int]]]  # of layers in their order: shapes, and positions of the heads kept


def _kept(scores: HeadScores, names: Sequence[str], must_be: Alike) -> Iterator[Kept]:
    """Yield all shapes that tied layers can have together, each with the positions to keep of the largest total score.

    Args:
        names: the layers, in whose order shapes and positions come.
        must_be: what the layers must keep alike.
    """
    values = [scores.scores[name].numpy() for name in names]
    groups = [scores.groups[name] for name in names]
    yield [Shape(0, 0)] * len(names), [[] for _ in names]
    if not all(groups):
        return
    if must_be is Alike.EVERYTHING or len(set(groups)) > 1:
        whole = [Shape(len(row), count) for row, count in zip(values, groups, strict=True)]
        yield whole, [list(range(len(row))) for row in values]
    elif must_be is Alike.HEADS and len(set(map(len, values))) == 1:  # as if they were one layer
        for (shape,), (kept,) in _same_groups([np.sum(values, axis=0)], groups[0], must_be):
            yield [shape] * len(names), [kept] * len(names)
    else:
        yield from _same_groups(values, groups[0], must_be)


def _same_groups(values: Sequence[Values], groups: int, must_be: Alike) -> Iterator[Kept]:
    """Yield, for layers that keep the same groups, the best positions for every number of groups and heads in them.

    Args:
        values: for each layer the scores of its heads.
        groups: how many groups each of the layers has.
        must_be: what the layers must keep alike.
    """
    by_group = [row.reshape(groups, -1) for row in values]
    ranked = [np.argsort(-rows, axis=1, kind="stable") for rows in by_group]
    for numbers in _numbers_per_group([rows.shape[1] for rows in by_group], must_be):
        best = [order[:, :number] for order, number in zip(ranked, numbers, strict=True)]
        worth = sum(
            np.take_along_axis(rows, heads, axis=1).sum(axis=1) for rows, heads in zip(by_group, best, strict=True)
        )
        order = np.argsort(-np.asarray(worth), kind="stable")
        positions = [
            heads + rows.shape[1] * np.arange(groups)[:, None] for rows, heads in zip(by_group, best, strict=True)
        ]
        for count in range(1, groups + 1):
            yield (
                [Shape(count * number, count) for number in numbers],
                [of_layer[order[:count]].ravel().tolist() for of_layer in positions],
            )


def _numbers_per_group(most: Sequence[int], must_be: Alike) -> Iterable[tuple[int, ...]]:
    """For each possibility, how many heads every layer keeps in each group that survives.

    One layer may keep any number, and so may layers that must only keep the same groups. If these have more than
    `MOST_COMBINATIONS` ways to do so, all keep the same number; if even that is not possible, or the layers must keep
    the same heads, all heads of a group stay.

    Args:
        most: how many heads each layer has in a group.
    """
    if len(most) == 1 or (must_be is Alike.GROUPS and math.prod(most) <= MOST_COMBINATIONS):
        return itertools.product(*(range(1, per_group + 1) for per_group in most))
    if must_be is Alike.GROUPS and len(set(most)) == 1:
        return [(number,) * len(most) for number in range(1, most[0] + 1)]
    return [tuple(most)]
