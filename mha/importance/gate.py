"""A learned gate per head: the importance measure of the exercise in Dive into Deep Learning."""

import torch
from torch import Tensor

from mha.importance.calibration import Calibration
from mha.importance.registry import criterion


@criterion("gate", needs="gradients")
def gate(calibration: Calibration, *, epochs: int = 8, learning_rate: float = 0.05) -> dict[str, Tensor]:
    """ξ = h · softmax(a), one logit a per head, trained on the calibration set while the model is frozen.

    A layer's gates multiply its heads' context vectors. Scaled by the number of heads h they start at 1, so
    training starts from the model itself; the gate reached is the score.

    Args:
        epochs: how often the calibration set is gone through.
        learning_rate: of Adam.
    """
    logits = {name: torch.zeros(layer.num_heads, requires_grad=True) for name, layer in calibration.with_heads.items()}
    optimizer = torch.optim.Adam(list(logits.values()), lr=learning_rate)
    for _ in range(epochs):
        for one in calibration.passes():
            value = one.loss({name: _gates(row) for name, row in logits.items()})
            for name, gradient in one.gradients(value, logits).items():
                logits[name].grad = gradient
            optimizer.step()
    return {name: _gates(logits[name]).detach() if name in logits else torch.empty(0) for name in calibration.layers}


def _gates(logits: Tensor) -> Tensor:
    return len(logits) * logits.softmax(dim=0)
