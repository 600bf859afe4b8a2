"""The size of everything that makes a head: its queries, keys, values and output."""

import re
from collections.abc import Iterator, Mapping

import torch
from einops import rearrange
from torch import Tensor

from mha.families import AttentionLayer
from mha.families.base.linears import weight_of
from mha.families.reading.own_parameters import GATES
from mha.importance.criteria.magnitude import output_norms
from mha.importance.registry import register_criterion
from mha.importance.running.calibration import Calibration
from mha.values.layout import tables, width


@register_criterion("magnitude_all", needs="nothing", comparable=False)
def magnitude_all(calibration: Calibration) -> dict[str, Tensor]:
    """The product of the Frobenius norms of the head's weights, ‖W_q,h‖ ‖W_k,h‖ ‖W_v,h‖ ‖W_o,h‖; needs no data.

    The heads of a key/value group share its W_k,h and W_v,h. Where a family's layout does not tell a head's keys from
    its values, or its queries from their gate, the rows of both count as one factor.
    """
    return {name: _product(layer) for name, layer in calibration.layers.items()}


def _product(layer: AttentionLayer) -> Tensor:
    """For each head of the layer (h,), the product of the norms of its weights."""
    product = output_norms(layer)
    for weight, patterns in _projections(layer):
        for rows, pattern in zip(weight.split([width((p,), layer.sizes) for p in patterns]), patterns, strict=True):
            for factor in _norms(rows.square().sum(dim=1), pattern, layer.sizes):
                product = product * factor
    return product


def _projections(layer: AttentionLayer) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
    """The layer's weights (out, in) whose rows hold heads, each with the family's patterns of how they lie there."""
    for name, axis in layer.description.rows.items():
        if name.rpartition(".")[2] not in GATES:
            yield weight_of(layer.module.get_submodule(name)), axis
    for name, axes in layer.description.tensors.items():
        owner, _, parameter = name.rpartition(".")
        weight = layer.module.get_submodule(owner)._parameters.get(parameter)
        if weight is not None and weight.dim() == 2 and 0 in axes:
            yield weight.detach().double(), axes[0]


def _norms(squares: Tensor, pattern: str, sizes: Mapping[str, int]) -> Tensor:
    """The Frobenius norms of each head's rows of a weight, a factor for each block of rows that makes up the head.

    Args:
        squares: (out,), the squared norm of each row of the weight.
        pattern: the axis pattern of these rows.
        sizes: letter of the pattern -> how many.

    Returns:
        (factors, heads); no factors where all heads share the rows.
    """
    letters = re.findall(r"\w+", pattern)
    if "h" in letters and (several := tables(pattern, sizes))[1:]:
        return torch.cat([_owned(squares, *table, sizes) for table in several])
    if "h" not in letters:
        return squares.new_ones(0, sizes["h"] * sizes["g"])  # rows that all heads share
    parts, heads, rest = (
        " ".join(letter for letter in letters if letter in which) for which in ("s", "g", set(letters) - set("hgs"))
    )
    own = {letter: sizes[letter] for letter in letters}
    table = rearrange(squares, f"{pattern} -> ({parts}) h ({heads}) ({rest})", **own)
    return table.sum(dim=-1).sqrt().expand(-1, -1, sizes["g"]).flatten(1)


def _owned(squares: Tensor, of_groups: bool, table: Tensor, sizes: Mapping[str, int]) -> Tensor:
    """The Frobenius norms (factors, heads) of the blocks of d rows that each head has in a weight.

    Args:
        squares: (out,), the squared norm of each row of the weight.
        of_groups: whether `table` is by group, all of whose heads get the same norms.
        table: for each head or group the indices of its rows.
    """
    blocks = squares[table].unflatten(1, (-1, sizes["d"])).sum(dim=-1).sqrt().T
    return blocks.repeat_interleave(sizes["g"] if of_groups else 1, dim=1)
