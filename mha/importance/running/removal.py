"""What a model loses when heads leave one after the other, and the output projection is solved again each time.

A layer's output y = W x + b changes by ΔW x when heads leave and the rest of W makes up for them as well as it can. To
second order that costs Σ (gᵀ ΔW x)² / 2 over the tokens, with g the gradient, by y, of what is to stay as it is. As in
K-FAC (Martens and Grosse 2015) the sum is taken apart: tr(G ΔW A ΔWᵀ) / 2, with A = Σ |g|² x xᵀ and
G = Σ g gᵀ / Σ |g|². The best ΔW for a set of heads does not depend on G, and is that of the optimal brain surgeon for
blocks (OSSCAR, Meng et al. 2024; ZipLM, Kurtić et al. 2023): all costs, of any number of heads, follow from A and G,
which one pass adds up.
"""

from dataclasses import dataclass

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


def removal_costs(slopes: Slopes, weight: Tensor, owner: Tensor, *, intercept: bool) -> Tensor:
    """The cost (h,) of each head, float64, on the CPU: how much more is lost when it leaves after those that cost less.

    It is summed over the tokens. Heads leave one by one, always the one that adds least; what a head is said to add is
    never less than what the one before it added, so that heads with the lowest costs are those that leave first.

    Args:
        weight: of the output projection, (o, k).
        owner: (k,), the position of the head that each input belongs to.
        intercept: whether the projection has a bias, which is then solved again too.
    """
    heads = int(owner.max()) + 1 if len(owner) else 0
    costs = torch.zeros(heads, dtype=torch.float64)
    inverse, outputs = _inverse(slopes, intercept), _shares(slopes)
    weight, least = weight.double().clone(), 0.0
    of_head = [(owner == head).nonzero()[:, 0] for head in range(heads)]
    left = list(range(heads))
    while left:
        added = {head: _added(weight, inverse, outputs, of_head[head]) for head in left}
        head = min(left, key=lambda head: added[head])
        least = max(least, 0.5 * added[head])
        costs[head] = least
        weight, inverse = _without(weight, inverse, of_head[head])
        left.remove(head)
    return costs


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


def _added(weight: Tensor, inverse: Tensor, outputs: Tensor, own: Tensor) -> float:
    """tr(G W_h [(A⁻¹)_hh]⁻¹ W_hᵀ): what leaving costs the head with the inputs `own`, as things are."""
    columns = weight[:, own]
    return float(((outputs @ columns) * torch.linalg.solve(inverse[own][:, own], columns.T).T).sum())


def _without(weight: Tensor, inverse: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """The weight, solved again, and the inverse, when the head with the inputs `own` has left."""
    factors = torch.linalg.solve(inverse[own][:, own], inverse[own])
    weight, inverse = weight - weight[:, own] @ factors, inverse - inverse[:, own] @ factors
    weight[:, own] = 0.0
    inverse[own], inverse[:, own] = 0.0, 0.0
    inverse[own, own] = 1.0  # is not read again, and can be inverted
    return weight, inverse
