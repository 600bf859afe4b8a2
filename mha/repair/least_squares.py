"""Least squares from sums alone: data are read once, and only sums over them are kept.

A linear layer with weight W (o, k) and bias b (o,) is changed so that its outputs for inputs x (n, k) come close to
targets y (n, o). Everything is float64; damping pulls toward the present weight, not toward zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = tuple(10.0**exponent for exponent in range(-6, 3))  # shares of the inputs' mean square
DAMPING_UNTRIED = 1e-2  # where nothing is held out to choose by
DIRECTIONS = 64  # of wider targets so many random combinations choose the damping
BLOCK = 4096  # rows of which products are added up in their own dtype
CONSTANT = 1e-9  # share of inputs' mean square below which their variance is rounding: they do not vary


@dataclass(frozen=True)
class Moments:
    """Weighted sums over rows of inputs x and targets y; the moments of two sets of rows add up to those of both.

    Attributes:
        n: () total weight of the rows.
        x: (k,), y: (o,), xx: (k, k), xy: (k, o), yy: () the weighted sums of x, y, x xᵀ, x yᵀ and |y|².
    """

    n: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, weight: Tensor | None = None) -> "Moments":
        """The moments of rows x (n, k) and y (n, o), each counted `weight` (n,) times, or once.

        Products of float32 (or less) are added up in float32, blocks of `BLOCK` rows in float64.
        """
        total = Accumulated(x.shape[1], y.shape[1], x.device)
        total.add(x, y, torch.ones(len(x), device=x.device) if weight is None else weight)
        return total.moments()

    @classmethod
    def zero(cls, k: int, o: int, device: torch.device | None = None) -> "Moments":
        """The moments of no rows, for inputs of width k and targets of width o."""
        zeros = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in ((), k, o, (k, k), (k, o), ())]
        return cls(*zeros)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(mine + others for mine, others in zip(self.sums(), other.sums(), strict=True)))

    def of_residual(self, weight: Tensor, bias: Tensor | None) -> "Moments":
        """The moments with the residual y - (W x + b) in place of y; a bias of None counts as 0."""
        b = self.y.new_zeros(self.y.shape) if bias is None else bias
        fitted = self.xx @ weight.T
        y = self.y - self.x @ weight.T - self.n * b
        return Moments(
            self.n, self.x, y, self.xx, self.xy - fitted - self.x[:, None] * b, self._error(weight, bias, fitted)
        )

    def centred(self) -> "Moments":
        """The moments about the means of x and of y."""
        n = self.n.clamp_min(torch.finfo(torch.float64).tiny)
        xx = self.xx - torch.outer(self.x, self.x) / n
        xy = self.xy - torch.outer(self.x, self.y) / n
        return Moments(
            self.n, torch.zeros_like(self.x), torch.zeros_like(self.y), xx, xy, self.yy - self.y @ self.y / n
        )

    def combined(self, combinations: Tensor) -> "Moments":
        """The moments with linear combinations of y (o, s) in place of y; `yy` is 0, so that errors lack a constant."""
        zero = self.yy.new_zeros(())
        return Moments(self.n, self.x, self.y @ combinations, self.xx, self.xy @ combinations, zero)

    def error(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The weighted sum of squared errors over the rows, Σ |y - W x - b|², ()."""
        return self._error(weight, bias, self.xx @ weight.T)

    def _error(self, weight: Tensor, bias: Tensor | None, fitted: Tensor) -> Tensor:
        """What `error` returns; `fitted` (k, o) is Σ x (W x)ᵀ."""
        error = self.yy + (weight.T * (fitted - 2 * self.xy)).sum()
        if bias is not None:
            error = error + self.n * bias @ bias - 2 * bias @ self.y + 2 * bias @ (weight @ self.x)
        return error

    def sums(self) -> tuple[Tensor, ...]:
        """The six sums, in the order of the attributes."""
        return self.n, self.x, self.y, self.xx, self.xy, self.yy


class Accumulated:
    """The moments of rows that come in pieces of any size, added up block by block.

    Args:
        k, o: the widths of inputs and targets.
        device: where the moments are.
    """

    def __init__(self, k: int, o: int, device: torch.device | None = None) -> None:
        self._total = Moments.zero(k, o, device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._rows = 0

    def add(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Add rows x (n, k) and y (n, o), each counted `weight` (n,) times; those that count 0 times may be NaN."""
        if not bool((weight > 0).all()):
            x, y, weight = x[weight > 0], y[weight > 0], weight[weight > 0]
        for start in range(0, len(x), BLOCK):
            some = slice(start, start + BLOCK)
            self._waiting.append((x[some], y[some], weight[some]))
            self._rows += len(x[some])
            if self._rows >= BLOCK:
                self._add_up()

    def moments(self) -> Moments:
        """The moments of all rows so far."""
        self._add_up()
        return self._total

    def _add_up(self) -> None:
        """Add the products of the rows that wait to the total."""
        if not self._waiting:
            return
        x, y, weight = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._rows = [], 0
        wide = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        x, y, weight = x.to(wide), y.to(wide), weight.to(wide)
        wx, wy = x * weight[:, None], y * weight[:, None]
        sums = (weight.sum(), wx.sum(0), wy.sum(0), wx.T @ x, wx.T @ y, (wy * y).sum())
        for total, part in zip(self._total.sums(), sums, strict=True):
            total += part


def refit(fit: Moments, held: Moments, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The weight and bias that bring the layer's outputs closest to the targets, or the present ones.

    They minimise Σ |y - W x - b|² + λ |W - W₀|². This is solved over `fit` for several λ, and then over both, with the
    λ that left the smallest error on `held`. A bias is not damped; without one (None) there is none afterwards. If no λ
    is better on `held` than the present weights, those stay.

    Args:
        fit: moments of the rows to solve over.
        held: moments of the rows that choose λ; where they are of no rows, λ is `DAMPING_UNTRIED`.
        weight, bias: the present ones, W₀ (o, k) and b₀ (o,), float64.
    """
    damping: float | None = DAMPING_UNTRIED
    if held.n > 0:
        damping = _best_damping(*_residuals(fit, held, weight, bias), bias is not None)
    residual = (fit + held).of_residual(weight, bias)
    solution = None if damping is None else _change(residual, damping, bias is not None)
    if solution is None:
        return weight, bias
    change, shift = solution
    return weight + change, None if bias is None or shift is None else bias + shift


def _residuals(fit: Moments, held: Moments, weight: Tensor, bias: Tensor | None) -> tuple[Moments, Moments]:
    """The moments of both with the residual y - (W x + b) in place of y, or with `DIRECTIONS` combinations of it.

    These tell as well which damping is best, at a fraction of the time.
    """
    if len(weight) <= DIRECTIONS:
        return fit.of_residual(weight, bias), held.of_residual(weight, bias)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (len(weight), DIRECTIONS), generator=generator).to(weight) * 2 - 1
    shift = None if bias is None else bias @ signs
    first, second = (moments.combined(signs).of_residual(signs.T @ weight, shift) for moments in (fit, held))
    return first, second


def recentre(moments: Moments, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """The bias (o,) with which the layer's outputs have the mean of the targets; None where the layer has no bias."""
    return None if bias is None else bias + moments.of_residual(weight, bias).y / moments.n


def rescale(fit: Moments, held: Moments, weight: Tensor, bias: Tensor | None, owner: Tensor) -> Tensor:
    """The weight, with a factor on each head's columns, found as in `refit`; the bias stays (Kwon et al. 2022, 4.3).

    Args:
        fit, held: moments to solve over, and those that choose the damping.
        owner: (k,), the position of the head that each input belongs to.
    """
    heads = int(owner.max()) + 1
    member = torch.nn.functional.one_hot(owner, heads).to(weight)

    def of_heads(moments: Moments) -> Moments:
        """The moments of what each head adds to the output, as h inputs to one output."""
        residual = moments.of_residual(weight, bias)
        xx = member.T @ (residual.xx * (weight.T @ weight)) @ member
        xy = member.T @ (residual.xy * weight.T).sum(1, keepdim=True)
        zero = xx.new_zeros
        return Moments(residual.n, zero(heads), zero(1), xx, xy, residual.yy)

    change, _ = refit(of_heads(fit), of_heads(held), weight.new_zeros(1, heads), None)
    return weight * (1 + member @ change[0])


def _best_damping(fit: Moments, held: Moments, with_bias: bool) -> float | None:
    """The λ of `DAMPING` whose solution over `fit` leaves least error on `held`; None if none is better than no change.

    The error is taken to have one valley: from the middle on the neighbours are tried, downhill.
    """
    errors: dict[int, float] = {}

    def error(place: int) -> float:
        """What the λ at this place leaves; infinite beyond the ends, and where it can't be solved."""
        if place not in errors:
            inside = 0 <= place < len(DAMPING)
            change = _change(fit, DAMPING[place], with_bias) if inside else None
            errors[place] = float("inf") if change is None else held.error(*change).item()
        return errors[place]

    place = len(DAMPING) // 2
    while (best := min((place, place - 1, place + 1), key=error)) != place:
        place = best
    return DAMPING[place] if error(place) < held.yy.item() else None


def _change(residual: Moments, damping: float, with_bias: bool) -> tuple[Tensor, Tensor | None] | None:
    """ΔW (o, k) and Δb (o,) that fit the residual y - (W x + b) best, by damped least squares.

    None where rounding keeps it from being solved with so little damping.

    Args:
        residual: moments with that residual in place of y.
        damping: λ, as a share of the inputs' mean square.
    """
    moments = residual.centred() if with_bias else residual
    mean_square = moments.xx.diagonal().mean() if len(moments.xx) else moments.xx.new_zeros(())
    if mean_square <= CONSTANT * residual.xx.diagonal().mean() or not len(moments.xx):
        change = moments.xy.T.new_zeros(moments.xy.T.shape)
    else:
        damped = moments.xx + damping * mean_square * torch.eye(len(moments.xx)).to(moments.xx)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if failed:
            return None
        change = torch.cholesky_solve(moments.xy, factor).T
    if not with_bias:
        return change, None
    return change, (residual.y - change @ residual.x) / residual.n
