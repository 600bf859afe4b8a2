"""Differentiable subset pruning: exactly so many heads, learned (Li, Cotterell and Sachan 2021)."""

import torch
from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.importance.running.learning import Logits, learn, target
from mha.values.errors import CalibrationError

ALL = "all heads"


@register_criterion("subset", needs="gradients")
def subset(
    calibration: Calibration,
    *,
    heads: int | None = None,
    epochs: int = 20,
    learning_rate: float = 0.1,
    temperature: tuple[float, float] = (1.0, 0.1),
) -> dict[str, Tensor]:
    """The head's logit in a learned, relaxed choice of exactly so many heads among all; the model is frozen.

    The gates are ξ = Σ_i p_i, with p_i = softmax((w + γ + Σ_{j<i} log(1 - p_j)) / τ): Gumbel noise γ is added to the
    logits w, anew for every batch; then as many successive softmaxes as heads choose, each pushing down what those
    before it have chosen (section 3 of the paper). As the temperature τ falls, the gates become 0 or 1.

    Args:
        heads: how many are chosen; half of all heads unless given.
        epochs: how often the calibration set is gone through.
        learning_rate: of Adam.
        temperature: at the start and at the end, falling geometrically.

    Raises:
        CalibrationError: no such number of heads, a temperature that is not above 0, or a loss that is not
            differentiable.
    """
    first, last = temperature
    if not (first > 0 and last > 0):
        raise CalibrationError(f"temperature is above 0 at the start and at the end, got {temperature}")
    total, wanted = len(calibration.present()), target(calibration, heads)
    if not total:
        return {name: torch.empty(0) for name in calibration.layers}

    def gates(logits: Logits, progress: float) -> dict[str, Tensor]:
        """Layer name -> (h,), gates for one batch: a relaxed choice by these logits and by noise that is drawn anew."""
        uniform = torch.rand(total, generator=calibration.generator).clamp(1e-6, 1 - 1e-6)
        gumbel = -(-uniform.log()).log()
        chosen = relaxed_choice(logits[ALL] + gumbel, wanted, first * (last / first) ** progress)
        return calibration.by_layer(chosen, masked=0.0)

    logits = learn(calibration, {ALL: torch.zeros(total)}, gates, epochs=epochs, learning_rate=learning_rate)
    return calibration.by_layer(logits[ALL], masked=float(logits[ALL].min()))


def relaxed_choice(keys: Tensor, count: int, temperature: float) -> Tensor:
    """Shares (h,) that sum to `count`: at a low temperature nearly 1 for the `count` largest keys (h,), else 0."""
    chosen = torch.zeros_like(keys)
    for _ in range(count):
        share = (keys / temperature).softmax(dim=0)
        chosen = chosen + share
        keys = keys + torch.log1p(-share.clamp(max=1 - 1e-6))
    return chosen
