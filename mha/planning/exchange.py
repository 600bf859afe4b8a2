"""Which heads of a layer to remove, once it is settled how many (Kwon et al. 2022, section 4.2).

Scores add up the heads' costs one by one. Where a criterion knows what heads cost together, Σ_{i,j∈S} M_ij for the set
S that is removed, exchanging heads within the layer can lower that without changing how many stay.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mha.values.plan import HeadPlan, HeadScores

Matrix = NDArray[np.float64]


def rearranged(plan: HeadPlan, scores: HeadScores) -> HeadPlan:
    """The plan with heads exchanged within layers, as long as that lowers the cost; it keeps as many in each.

    A plan that was feasible for grouped attention stays so. Without interactions the plan is returned as it is.
    """
    if scores.interactions is None:
        return plan
    keep = {}
    for name, heads in plan.keep.items():
        ids = scores.heads[name]
        kept = exchange(scores.interactions[name].numpy(), [ids.index(head) for head in heads], scores.groups[name])
        keep[name] = [ids[head] for head in kept]
    return HeadPlan(keep)


def exchange(interactions: Matrix, kept: list[int], groups: int) -> list[int]:
    """Positions to keep, as many as `kept`; the best exchange is made until none lowers the cost of what is removed.

    Exchanged are two heads of a group, or a whole surviving group and one that was removed, whose best heads stay.

    Args:
        interactions: symmetric (h, h).
        groups: key/value groups; every surviving one keeps as many heads as another, before and after.
    """
    current = sorted(kept)
    cost = cost_of_removing(interactions, current)
    while True:
        option = min(_options(interactions, current, groups), key=lambda kept: cost_of_removing(interactions, kept))
        lower = cost_of_removing(interactions, option)
        if not lower < cost - 1e-12 * abs(cost):
            return current
        current, cost = option, lower


def cost_of_removing(interactions: Matrix, kept: list[int]) -> float:
    """Σ_{i,j∈S} M_ij over the heads S that are not kept."""
    removed = np.setdiff1d(np.arange(len(interactions)), kept)
    return float(interactions[np.ix_(removed, removed)].sum())


def _options(interactions: Matrix, kept: list[int], groups: int) -> Iterator[list[int]]:
    """The plan itself, the best exchange of two heads, and every exchange of two groups."""
    yield kept
    per_group = len(interactions) // max(groups, 1)
    gone = [head for head in range(len(interactions)) if head not in kept]
    if not kept or not gone:
        return
    removed = interactions[:, gone].sum(axis=1)  # Σ_{j∈S} M_ij
    own = interactions.diagonal()
    change = (2 * removed + own)[kept][:, None] - (2 * removed - own)[gone] - 2 * interactions[np.ix_(kept, gone)]
    same = np.array(kept)[:, None] // per_group == np.array(gone) // per_group
    if same.any() or per_group == 1:
        allowed = np.where(same | (per_group == 1), change, np.inf)
        leaves, comes = np.unravel_index(allowed.argmin(), allowed.shape)
        yield sorted({*kept, gone[comes]} - {kept[leaves]})
    survivors = {head // per_group for head in kept} if per_group > 1 else set()
    for leaves_group in survivors:
        rest = [head for head in kept if head // per_group != leaves_group]
        for comes_group in set(range(groups)) - survivors:
            members = range(comes_group * per_group, (comes_group + 1) * per_group)
            yield _filled(interactions, rest, list(members), len(kept) - len(rest))


def _filled(interactions: Matrix, kept: list[int], members: list[int], count: int) -> list[int]:
    """`kept` and the `count` of the members whose staying lowers the cost most, one after the other."""
    for _ in range(count):
        best = min((m for m in members if m not in kept), key=lambda m: cost_of_removing(interactions, [*kept, m]))
        kept = [*kept, best]
    return sorted(kept)
