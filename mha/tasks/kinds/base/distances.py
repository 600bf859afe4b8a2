"""How far outputs are from those of the dense model."""

import torch
import torch.nn.functional as F
from torch import Tensor


def precise(values: Tensor) -> Tensor:
    """The values in float32, or in what they are if that is more."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def divergences(logits: Tensor, dense: Tensor) -> Tensor:
    """KL(dense ‖ ours) of the distributions that logits (…, c) make, for each of them: (…)."""
    ours, wanted = precise(logits).log_softmax(-1), precise(dense).log_softmax(-1)
    return F.kl_div(ours, wanted, log_target=True, reduction="none").sum(-1)


def divergence(logits: Tensor, dense: Tensor) -> Tensor:
    """The mean of `divergences`, a scalar."""
    return divergences(logits, dense).mean()
