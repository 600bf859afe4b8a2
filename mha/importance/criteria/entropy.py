"""How focused a head is, whatever the length."""

import torch
from torch import Tensor

from mha.importance.registry import criterion
from mha.importance.running.attention_weights import mean_over_rows
from mha.importance.running.calibration import Calibration
from mha.importance.running.scored import Scored


@criterion("entropy", needs="attention weights", comparable=False)
def entropy(calibration: Calibration) -> Scored:
    """1 - mean over rows of (-Σ p log p) / log n, n the number of keys that the row sees: focused heads are kept.

    1 for a head that always looks at one key, 0 for one that looks at all alike. Rows that see one key only don't
    count; rows of padding as in `confidence`. What goes to an attention sink is left out of the sum.

    Raises:
        CalibrationError: a layer's attention weights can't be seen (says why), or no row sees two keys.
    """
    return Scored(*mean_over_rows(calibration, _focus))


def _focus(weights: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    keys = visible.sum(dim=-1)
    disorder = -torch.special.xlogy(weights, weights).sum(dim=-1)
    return 1 - disorder / keys.clamp(min=2).to(weights).log(), keys >= 2
