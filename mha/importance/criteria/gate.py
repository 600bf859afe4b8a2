"""A learned gate per head: the importance measure of the exercise in Dive into Deep Learning."""

import torch
from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.importance.running.learning import learn


@register_criterion("gate", needs="gradients")
def gate(calibration: Calibration, *, epochs: int = 8, learning_rate: float = 0.05) -> dict[str, Tensor]:
    """The head's gate, ξ = h · softmax(a), learned on the calibration set while the model is frozen.

    There is one logit a per head of a layer.
    A layer's gates multiply its heads' context vectors. Scaled by the number of heads h they start at 1, so
    training starts from the model itself (a bare softmax would shrink every output to 1/h); the gate reached is the
    score. The gates of a layer always sum to h, so no layer ranks low as a whole: they compare the heads of a layer.

    Args:
        epochs: how often the calibration set is gone through.
        learning_rate: of Adam.
    """
    start = {name: torch.zeros(layer.num_heads) for name, layer in calibration.with_heads.items()}
    logits = learn(
        calibration,
        start,
        lambda logits, _: {name: _gates(row) for name, row in logits.items()},
        epochs=epochs,
        learning_rate=learning_rate,
    )
    return {name: _gates(logits[name]) if name in logits else torch.empty(0) for name in calibration.layers}


def _gates(logits: Tensor) -> Tensor:
    """The gates (h,) of a layer, which sum to h."""
    return len(logits) * logits.softmax(dim=0)
