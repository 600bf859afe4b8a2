"""How far outputs are from those of the dense model."""

import torch.nn.functional as F
from torch import Tensor


def divergences(logits: Tensor, dense: Tensor) -> Tensor:
    """KL(dense ‖ ours) of the distributions that logits (…, c) make, for each of them: (…), in float32."""
    ours, wanted = logits.float().log_softmax(-1), dense.float().log_softmax(-1)
    return F.kl_div(ours, wanted, log_target=True, reduction="none").sum(-1)


def divergence(logits: Tensor, dense: Tensor) -> Tensor:
    """The mean of `divergences`, a scalar."""
    return divergences(logits, dense).mean()
