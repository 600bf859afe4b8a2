"""What a model loses when heads leave one after the other, and the output projection is solved again each time.

A layer's output y = W x + b changes by ΔW x when heads leave and the rest of W makes up for them as well as it can. To
second order that costs Σ (gᵀ ΔW x)² / 2 over the tokens, with g the gradient, by y, of what is to stay as it is. As in
K-FAC (Martens and Grosse 2015) the sum is taken apart: tr(G ΔW A ΔWᵀ) / 2, with A = Σ |g|² x xᵀ and
G = Σ g gᵀ / Σ |g|². The best ΔW for a set of heads does not depend on G, and is that of the optimal brain surgeon for
blocks (OSSCAR, Meng et al. 2024; ZipLM, Kurtić et al. 2023): all costs, of any number of heads, follow from A and G,
which one pass adds up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

DAMPING = 1e-3  # of the inputs' mean square
TINY = torch.finfo(torch.float64).tiny


@dataclass
class Slopes:
    """Sums over the tokens of one layer, float64.

    Attributes:
        inputs: (k + 1, k + 1) the sum of |g|² x xᵀ, with a last entry of x that is always 1.
        outputs: (o, o) the sum of g gᵀ.
    """

    inputs: Tensor
    outputs: Tensor

    @classmethod
    def zero(cls, k: int, o: int, device: torch.device | None = None) -> "Slopes":
        """The sums over no tokens of a layer that reads k features and puts out o."""
        made = [torch.zeros(size, size, dtype=torch.float64, device=device) for size in (k + 1, o)]
        return cls(*made)

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Add tokens: what the layer reads (..., k), and the gradients by what it puts out (..., o)."""
        wide = torch.promote_types(gradient.dtype, torch.float32)
        x, g = x.detach().flatten(0, -2).to(wide), gradient.detach().flatten(0, -2).to(wide)
        ones = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        self.inputs += ((ones * g.square().sum(1, keepdim=True)).T @ ones).double()
        self.outputs += (g.T @ g).double()

    def scaled(self, factor: float) -> "Slopes":
        """The sums as if the squares of all gradients were `factor` times as large."""
        return Slopes(self.inputs * factor, self.outputs * factor)

    def __add__(self, other: "Slopes") -> "Slopes":
        return Slopes(self.inputs + other.inputs, self.outputs + other.outputs)


class Kept(NamedTuple):
    """Heads of a layer that stay.

    Attributes:
        positions: of these heads, ascending.
        groups: in how many key/value groups they are.
        cost: what is lost without the others, summed over the tokens.
    """

    positions: tuple[int, ...]
    groups: int
    cost: float


def removal_costs(slopes: Slopes, weight: Tensor, owner: Tensor, *, intercept: bool) -> Tensor:
    """The cost (h,) of each head, float64, on the CPU: how much more is lost when it leaves after those that cost less.

    It is summed over the tokens. Heads leave one by one, always the one that adds least; what a head is said to add is
    never less than what the one before it added, so that heads with the lowest costs are those that leave first.

    Args:
        weight: of the output projection, (o, k).
        owner: (k,), the position of the head that each input belongs to.
        intercept: whether the projection has a bias, which is then solved again too.
    """
    layer = _Layer.of(slopes, weight, owner, intercept)
    costs = torch.zeros(len(layer.left), dtype=torch.float64)
    least = 0.0
    while layer.left:
        lost = layer.lost
        (head,) = layer.remove_cheapest([(head,) for head in layer.left])
        least = max(least, layer.lost - lost)
        costs[head] = least
    return costs


def kept_sets(slopes: Slopes, weight: Tensor, owner: Tensor, groups: int, *, intercept: bool) -> list[Kept]:
    """For every feasible number of heads and key/value groups, which heads to keep and what the layer loses by it.

    Where heads share groups there are two ways to get there, of which the better is taken: first heads leave every
    group, and then groups leave as they are; or groups leave first, and then heads leave those that stay.

    Args:
        weight, owner, intercept: as in `removal_costs`.
        groups: how many key/value groups the layer has.
    """
    whole = _Layer.of(slopes, weight, owner, intercept)
    heads, found = len(whole.left), dict[tuple[int, int], Kept]()
    per_group = heads // max(groups, 1)

    def note(layer: _Layer) -> None:
        """Take the layer as it is, if it is the best of its shape so far."""
        kept = Kept(tuple(layer.left), len({head // per_group for head in layer.left}), layer.lost)
        shape = (len(kept.positions), kept.groups)
        if shape not in found or kept.cost < found[shape].cost:
            found[shape] = kept

    note(whole)
    for each in range(per_group, 0, -1):
        thinned = whole.copy()
        thinned.thin(per_group, each)
        note(thinned)
        while thinned.left:
            thinned.remove_cheapest(thinned.in_groups(per_group))
            note(thinned)
    while per_group > 1 and whole.left:
        whole.remove_cheapest(whole.in_groups(per_group))
        thinned = whole.copy()
        for each in range(per_group - 1, 0, -1):
            thinned.thin(per_group, each)
            note(thinned)
    return list(found.values())


def solved_without(
    slopes: Slopes, weight: Tensor, bias: Tensor | None, owner: Tensor, kept: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """The weight (o, k) and bias that come closest to the present outputs with the heads at the positions `kept` alone.

    Args:
        weight, bias: the present ones; a bias of None stays None.
        owner: (k,), the position of the head that each input belongs to.
    """
    layer = _Layer.of(slopes, weight, owner, bias is not None)
    if gone := [head for head in layer.left if head not in kept]:
        layer.remove(gone)
    if bias is None:
        return layer.weight, None
    mean = slopes.inputs[:-1, -1] / slopes.inputs[-1, -1].clamp_min(TINY)
    return layer.weight, bias.double() + (weight.double() - layer.weight) @ mean


@dataclass
class _Layer:
    """An output projection from which heads leave.

    Attributes:
        weight: (o, k), as it is solved now.
        inverse: (k, k) of A, for the heads that are left.
        outputs: G (o, o).
        of_head: for each head the inputs that belong to it.
        left: positions of the heads that are left.
        lost: what has been lost so far, summed over the tokens.
    """

    weight: Tensor
    inverse: Tensor
    outputs: Tensor
    of_head: list[Tensor]
    left: list[int]
    lost: float = 0.0

    @classmethod
    def of(cls, slopes: Slopes, weight: Tensor, owner: Tensor, intercept: bool) -> "_Layer":
        """The projection with all of its heads; the arguments are those of `removal_costs`."""
        heads = int(owner.max()) + 1 if len(owner) else 0
        of_head = [(owner == head).nonzero()[:, 0] for head in range(heads)]
        return cls(weight.double(), _inverse(slopes, intercept), _shares(slopes), of_head, list(range(heads)))

    def copy(self) -> "_Layer":
        """Another one that goes on from here."""
        return replace(self, left=list(self.left))

    def in_groups(self, per_group: int) -> list[tuple[int, ...]]:
        """The heads that are left, group by group."""
        numbers = sorted({head // per_group for head in self.left})
        return [tuple(head for head in self.left if head // per_group == number) for number in numbers]

    def thin(self, per_group: int, each: int) -> None:
        """Let heads leave until `each` of them are left in every group that is there, the cheapest first."""
        while full := [group for group in self.in_groups(per_group) if len(group) > each]:
            self.remove_cheapest([(head,) for group in full for head in group])

    def remove_cheapest(self, several: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Let those heads leave, of several sets of heads, that cost least; returns them."""
        added = [self._added(heads) for heads in several]
        place = min(range(len(several)), key=added.__getitem__)
        self.remove(several[place])
        self.lost += max(0.5 * added[place], 0.0)
        return several[place]

    def _inputs(self, heads: Sequence[int]) -> Tensor:
        """The inputs that belong to these heads."""
        return torch.cat([self.of_head[head] for head in heads])

    def _added(self, heads: Sequence[int]) -> float:
        """tr(G W_h [(A⁻¹)_hh]⁻¹ W_hᵀ) for these heads h, as things are: twice what is lost without them."""
        own = self._inputs(heads)
        columns = self.weight[:, own]
        solved = torch.linalg.solve(self.inverse[own][:, own], columns.T)
        return float(((self.outputs @ columns) * solved.T).sum())

    def remove(self, heads: Sequence[int]) -> None:
        """Solve the weight again without these heads, and take them out of the inverse."""
        own = self._inputs(heads)
        factors = torch.linalg.solve(self.inverse[own][:, own], self.inverse[own])
        self.weight = self.weight - self.weight[:, own] @ factors
        self.inverse = self.inverse - self.inverse[:, own] @ factors
        self.weight[:, own] = 0.0
        self.left = [head for head in self.left if head not in heads]


def _inverse(slopes: Slopes, intercept: bool) -> Tensor:
    """The inverse of A (k, k), damped; about the mean where a bias takes that up."""
    gram, mean, total = slopes.inputs[:-1, :-1], slopes.inputs[:-1, -1], slopes.inputs[-1, -1]
    around = torch.outer(mean, mean) / total.clamp_min(TINY) if intercept else 0
    size = gram.diagonal().mean() if len(gram) else gram.new_zeros(())
    damped = gram - around + (DAMPING * size).clamp_min(TINY) * torch.eye(len(gram)).to(gram)
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))


def _shares(slopes: Slopes) -> Tensor:
    """G (o, o): which directions of the output matter; its trace is 1."""
    return slopes.outputs / slopes.outputs.trace().clamp_min(TINY)
