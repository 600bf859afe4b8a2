"""Which heads of a layer to remove, once it is settled how many (Kwon et al. 2022, section 4.2).

Scores add up what heads cost one by one. Where a criterion knows what heads cost together, Σ_{i,j∈S} M_ij for the set
S that is removed, exchanging heads within the layer can lower this sum without changing how many stay.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from mha.planning.tied_layers import Alike, Tie
from mha.values.plan import HeadPlan, HeadScores

Matrix = NDArray[np.float64]


def rearranged(plan: HeadPlan, scores: HeadScores, ties: Iterable[Tie] = ()) -> HeadPlan:
    """The plan after exchanging kept for removed heads within layers, as long as that lowers the cost of removal.

    The cost is that of `cost_of_removing`, by the scores' interactions; without these the plan is returned as it is.
    Every layer keeps as many heads as before, and a feasible plan stays feasible. Tied layers that must keep the same
    heads exchange the same ones; layers that are tied in another way exchange none.
    """
    if scores.interactions is None:
        return plan
    together = {name: tie for tie in ties for name in tie.layers}
    keep = dict(plan.keep)
    for name in plan.keep:
        tie = together.get(name)
        names = [name] if tie is None else [member for member in tie.layers if member in plan.keep]
        if tie is not None and (tie.alike is not Alike.HEADS or name != names[0] or not _one_shape(names, scores)):
            continue
        costs = np.sum([scores.interactions[member].numpy() for member in names], axis=0)
        positions = [scores.heads[name].index(head) for head in plan.keep[name]]
        kept = exchange(costs, positions, scores.groups[name])
        keep |= {member: tuple(scores.heads[member][position] for position in kept) for member in names}
    return HeadPlan(keep)


def _one_shape(names: Iterable[str], scores: HeadScores) -> bool:
    """Whether all of these layers have the same number of heads, and the same number of groups."""
    return len({(len(scores.heads[name]), scores.groups[name]) for name in names}) == 1


def exchange(interactions: Matrix, kept: list[int], groups: int) -> list[int]:
    """Positions of heads to keep: `kept` after the best exchange, made again until none lowers the cost of removal.

    An exchange swaps a kept for a removed head of the same group (in plain attention, of the layer), or a whole
    surviving group for a removed one, of which then the best heads stay. As many heads are kept as before.

    Args:
        interactions: symmetric (h, h).
        kept: positions of the heads that stay at first.
        groups: how many key/value groups there are; all surviving ones keep as many heads, before and after.
    """
    current = sorted(kept)
    cost = cost_of_removing(interactions, current)
    while True:
        best = min(_exchanged(interactions, current, groups), key=lambda kept: cost_of_removing(interactions, kept))
        lower = cost_of_removing(interactions, best)
        if not lower < cost - 1e-12 * abs(cost):
            return current
        current, cost = best, lower


def cost_of_removing(interactions: Matrix, kept: list[int]) -> float:
    """Σ_{i,j∈S} M_ij, for the interactions M and the set S of all positions that are not in `kept`."""
    removed = np.setdiff1d(np.arange(len(interactions)), kept)
    return float(interactions[np.ix_(removed, removed)].sum())


def _exchanged(interactions: Matrix, kept: list[int], groups: int) -> Iterator[list[int]]:
    """Yield `kept`, and the positions kept after the best swap of two heads, and after every swap of two groups.

    A swap of heads is within a group; in plain attention (`groups` of one head) within the layer. A surviving group is
    swapped for a removed one, of which as many heads stay.
    """
    yield kept
    per_group = len(interactions) // max(groups, 1)
    gone = [position for position in range(len(interactions)) if position not in kept]
    if not kept or not gone:
        return
    removed = interactions[:, gone].sum(axis=1)  # Σ_{j∈S} M_ij
    own = interactions.diagonal()
    change = (2 * removed + own)[kept][:, None] - (2 * removed - own)[gone] - 2 * interactions[np.ix_(kept, gone)]
    same_group = np.array(kept)[:, None] // per_group == np.array(gone) // per_group
    if same_group.any() or per_group == 1:
        allowed = np.where(same_group | (per_group == 1), change, np.inf)
        leaves, comes = np.unravel_index(allowed.argmin(), allowed.shape)
        yield sorted({*kept, gone[comes]} - {kept[leaves]})
    survivors = {position // per_group for position in kept} if per_group > 1 else set()
    for leaving_group in survivors:
        rest = [position for position in kept if position // per_group != leaving_group]
        for coming_group in set(range(groups)) - survivors:
            members = range(coming_group * per_group, (coming_group + 1) * per_group)
            yield _filled(interactions, rest, list(members), len(kept) - len(rest))


def _filled(interactions: Matrix, kept: list[int], members: list[int], count: int) -> list[int]:
    """`kept` and `count` of `members`, added one by one: each the one whose staying lowers the cost of removal most."""
    for _ in range(count):
        best = min((m for m in members if m not in kept), key=lambda m: cost_of_removing(interactions, [*kept, m]))
        kept = [*kept, best]
    return sorted(kept)
