"""Random gates of which all but a given number close for good (Voita et al. 2019, section 5; Louizos et al. 2018)."""

import math

import torch
from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.importance.running.learning import Logits, learn, target

BETA = 0.33
LOW, HIGH = -0.1, 1.1
MOST_OPEN = 0.99  # of the heads, on average: all of them would need infinite logits
ALL = "all heads"


@register_criterion("hard_concrete", needs="gradients")
def hard_concrete(
    calibration: Calibration, *, heads: int | None = None, epochs: int = 20, learning_rate: float = 0.1
) -> dict[str, Tensor]:
    """How far the head's random gate stays open, log α, when only so many gates may; the model is frozen.

    The gates are clip(s (HIGH - LOW) + LOW, 0, 1) with s = σ((logit u + log α) / β). u is uniform noise, drawn anew for
    every batch. A gate is open with P = σ(log α - β log(-LOW / HIGH)), which log α ranks. An L0 penalty λ ΣP leaves
    whatever number of heads its λ happens to; here the number is given and λ is found: after each step all log α are
    shifted alike, by as much as makes ΣP the number wanted, which falls from all to `heads` during the first half of
    training.

    Args:
        heads: how many gates shall be open; half of all heads unless given.
        epochs: how often the calibration set is gone through.
        learning_rate: of Adam.

    Raises:
        CalibrationError: no such number of heads, or a loss that is not differentiable.
    """
    total, wanted = len(calibration.present()), target(calibration, heads)
    if not total:
        return {name: torch.empty(0) for name in calibration.layers}

    def gates(logits: Logits, _: float) -> dict[str, Tensor]:
        """Layer name -> (h,), random gates for one batch, by these log α and by noise that is drawn anew."""
        noise = torch.rand(total, generator=calibration.generator).clamp(1e-6, 1 - 1e-6)
        return calibration.by_layer(sampled(logits[ALL], noise), masked=0.0)

    def settle(logits: Logits, progress: float) -> None:
        """Shift all log α in place, so that as many gates are open on average as should be by now."""
        now = total + (wanted - total) * min(2 * progress, 1.0)
        logits[ALL] += shift(logits[ALL], min(now, MOST_OPEN * total))

    start = torch.zeros(total)
    start += shift(start, MOST_OPEN * total)
    logits = learn(calibration, {ALL: start}, gates, epochs=epochs, learning_rate=learning_rate, settle=settle)
    return calibration.by_layer(logits[ALL], masked=float(logits[ALL].min()))


def sampled(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """Random gates (h,) in [0, 1], from log α (h,) and uniform noise (h,) in (0, 1)."""
    stretched = torch.sigmoid((noise.logit() + log_alpha) / BETA) * (HIGH - LOW) + LOW
    return stretched.clamp(0.0, 1.0)


def probability_open(log_alpha: Tensor) -> Tensor:
    """The probability that each gate is above 0, (h,)."""
    return torch.sigmoid(log_alpha - BETA * math.log(-LOW / HIGH))


def shift(log_alpha: Tensor, wanted: float) -> float:
    """What to add to every log α (h,) for the probabilities of open gates to sum to `wanted`; by bisection."""
    below, above = -float(log_alpha.max()) - 50.0, -float(log_alpha.min()) + 50.0
    for _ in range(60):
        middle = (below + above) / 2
        if float(probability_open(log_alpha.double() + middle).sum()) < wanted:
            below = middle
        else:
            above = middle
    return (below + above) / 2
