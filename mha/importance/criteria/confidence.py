"""How sure a head is where to look (Voita et al. 2019, section 4)."""

from torch import Tensor

from mha.importance.registry import register_criterion
from mha.importance.running.attention_weights import mean_over_rows
from mha.importance.running.calibration import Calibration
from mha.importance.running.scored import Scored


@register_criterion("confidence", needs="attention weights", comparable=False, additive=True)
def confidence(calibration: Calibration) -> Scored:
    """The mean over rows of the largest attention weight: heads that are sure where to look are kept.

    That is E_p max_k p_k over rows p of attention weights, of keys k. Rows of padding don't count, as far as
    the masks of self-attention tell which they are; in cross-attention they do.

    Raises:
        CalibrationError: a layer's attention weights can't be seen (says why).
    """
    return Scored(*mean_over_rows(calibration, _largest))


def _largest(weights: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """The largest weight of each row (…), and whether the row sees any key (…), of weights and visible keys (…, k)."""
    return weights.amax(dim=-1), visible.any(dim=-1)
