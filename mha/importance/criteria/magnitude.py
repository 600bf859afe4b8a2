"""The size of a head's columns of the output projection."""

from torch import Tensor

from mha.families import AttentionLayer
from mha.families.base.linears import weight_of
from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.values.layout import owners


@register_criterion("magnitude", needs="nothing", comparable=False)
def magnitude(calibration: Calibration) -> dict[str, Tensor]:
    """The Frobenius norm of the head's columns of the output projection, ‖W_o[:,h]‖; needs no data."""
    return {name: output_norms(layer) for name, layer in calibration.layers.items()}


def output_norms(layer: AttentionLayer) -> Tensor:
    """The Frobenius norm (h,) of each head's columns of the output projection."""
    return per_head(weight_of(layer.output).square().sum(dim=0), layer).sqrt()


def per_head(columns: Tensor, layer: AttentionLayer) -> Tensor:
    """For each head (h,) the sum of its entries of `columns`, which has a number for each column of W_o."""
    owner = owners(layer.context_axis, layer.sizes).to(columns.device)
    return columns.new_zeros(layer.num_heads).index_add(0, owner, columns)
