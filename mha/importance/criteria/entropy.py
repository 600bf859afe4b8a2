"""How focused a head is, whatever the length."""

import torch
from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.attention_weights import mean_over_rows
from mha.importance.running.calibration import Calibration
from mha.importance.running.scored import Scored


@register_criterion("entropy", needs="attention weights", comparable=False, additive=True)
def entropy(calibration: Calibration) -> Scored:
    """How focused the head is, whatever the length: 1 less the mean over rows of its relative entropy.

    That is 1 - (-Σ p log p) / log n for a row p of attention weights that sees n keys: 1 for a head that always looks
    at one key, 0 for one that looks at all alike. Rows that see one key only don't count; rows of padding as in
    `confidence`. What goes to an attention sink is left out of the sum.

    Raises:
        CalibrationError: a layer's attention weights can't be seen (says why), or no row sees two keys.
    """
    return Scored(*mean_over_rows(calibration, _focus))


def _focus(weights: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """1 less the relative entropy of each row (…), and whether the row sees two keys or more (…).

    Args:
        weights, visible: (…, k), attention weights, and which keys the row sees.
    """
    keys = visible.sum(dim=-1)
    disorder = -torch.special.xlogy(weights, weights).sum(dim=-1)
    return 1 - disorder / keys.clamp(min=2).to(weights).log(), keys >= 2
