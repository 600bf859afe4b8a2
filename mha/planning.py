"""Scores and a budget become a plan."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from mha.errors import PlanError, ScoresError
from mha.families import find_attention
from mha.heads import HeadPlan, HeadScores
from mha.rearrangement import rearranged


def choose(
    scores: HeadScores,
    *,
    model: nn.Module | None = None,
    keep: float | None = None,
    heads: int | None = None,
    min_heads: int = 0,
) -> HeadPlan:
    """The feasible plan of that size whose kept heads have the largest total score.

    Exactly one budget. For plain attention these are simply the best-scored heads of the whole model; for
    grouped attention every surviving key/value group of a layer keeps the same number of query heads, and
    the plan has the largest feasible size not above the budget. It names every scored layer.

    Args:
        model: where the scores are to be used; given, they are checked against it.
        keep: share of the scored heads to keep: `round(keep * total)` heads.
        heads: number of heads to keep, over all layers.
        min_heads: no layer keeps fewer.

    Raises:
        ScoresError: no budget or several, one that can't be met (says the nearest that can).
        PlanError: the scores do not belong to the model.
    """
    if model is not None:
        _check_belong(scores, model)
    wanted = _budget(len(scores), keep, heads)
    options = {name: _layer_options(scores, name, min_heads) for name in scores.scores}
    best = _best_combination(list(options.values()), wanted)
    if best is None:
        fewest = sum(min(layer) for layer in options.values())
        raise ScoresError(
            f"no feasible plan keeps at most {wanted} heads with at least {min_heads} in each of "
            f"{len(options)} layers; the smallest that does keeps {fewest}"
        )
    plan = HeadPlan({name: options[name][count].heads for name, count in zip(options, best, strict=True)})
    return rearranged(plan, scores)


@dataclass(frozen=True)
class _Option:
    """The best way for a layer to keep a certain number of heads."""

    value: float  # total score
    heads: tuple[int, ...]  # original numbers


def _budget(total: int, keep: float | None, heads: int | None) -> int:
    if (keep is None) == (heads is None):
        raise ScoresError(f"give exactly one budget, got keep={keep}, heads={heads}")
    if keep is not None:
        if not 0.0 <= keep <= 1.0:
            raise ScoresError(f"keep is a share of the heads, between 0 and 1, got {keep}")
        return round(keep * total)
    assert heads is not None
    if not 0 <= heads <= total:
        raise ScoresError(f"heads is how many of the {total} scored heads to keep, got {heads}")
    return heads


def _check_belong(scores: HeadScores, model: nn.Module) -> None:
    layers = find_attention(model)
    if unknown := [name for name in scores.scores if name not in layers]:
        raise PlanError(f"the scores name layers that the model does not have: {unknown}; it has {list(layers)}")
    for name, heads in scores.heads.items():
        layer = layers[name]
        if heads != layer.heads or scores.groups[name] != layer.num_kv_heads:
            raise PlanError(
                f"layer {name!r}: the scores are of heads {list(heads)} in {scores.groups[name]} key/value groups, "
                f"the model has heads {list(layer.heads)} in {layer.num_kv_heads}; score this model"
            )


def _layer_options(scores: HeadScores, name: str, min_heads: int) -> dict[int, _Option]:
    """Number of heads -> the best way to keep that many, for every feasible number from `min_heads` up."""
    values, ids = scores.scores[name].numpy(), scores.heads[name]
    options: dict[int, _Option] = {}
    for kept in _group_choices(values, scores.groups[name]):
        value = float(values[kept].sum())
        best = options.get(len(kept))
        if len(kept) >= min_heads and (best is None or value > best.value):
            options[len(kept)] = _Option(value, tuple(ids[i] for i in sorted(kept)))
    if not options:
        raise ScoresError(f"layer {name!r} has only {len(values)} heads, fewer than min_heads={min_heads}")
    return options


def _group_choices(values: np.ndarray, groups: int) -> Iterator[list[int]]:
    """For every feasible (groups kept, heads kept in each), the positions with the largest total score."""
    yield []
    if groups == 0:
        return
    ranked = np.argsort(-values.reshape(groups, -1), axis=1, kind="stable")
    per_group = ranked.shape[1]
    for heads in range(1, per_group + 1):
        members = ranked[:, :heads] + per_group * np.arange(groups)[:, None]
        order = np.argsort(-values[members].sum(axis=1), kind="stable")
        for count in range(1, groups + 1):
            yield members[order[:count]].ravel().tolist()


def _best_combination(layers: list[dict[int, _Option]], wanted: int) -> list[int] | None:
    """Heads per layer with the largest total score, at the largest reachable total not above `wanted`.

    Dynamic programme over layers: best[t] is the largest score with exactly t heads so far.
    """
    best = np.full(wanted + 1, -np.inf)
    best[0] = 0.0
    choices = []
    for options in layers:
        reached, choice = np.full(wanted + 1, -np.inf), np.full(wanted + 1, -1)
        for count, option in options.items():
            if count > wanted:
                continue
            candidate = best[: wanted + 1 - count] + option.value
            better = candidate > reached[count:]
            reached[count:][better] = candidate[better]
            choice[count:][better] = count
        best = reached
        choices.append(choice)
    reachable = np.flatnonzero(np.isfinite(best))
    if not len(reachable):
        return None
    left, counts = int(reachable[-1]), []
    for choice in reversed(choices):
        counts.append(int(choice[left]))
        left -= counts[-1]
    return counts[::-1]
