"""What pruning does to one layer, as a plain value: everything is decided, and nothing is changed yet."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mha.families import AttentionLayer
from mha.families.base.emptied import Emptied
from mha.pruning.indices import Indices
from mha.pruning.weight_axes import selected_axes, sliced_axes
from mha.values.errors import PlanError
from mha.values.layout import count, kept_indices
from mha.values.plan import Lineage


@dataclass(frozen=True, kw_only=True)
class Cut:
    """All that pruning one layer changes in it.

    Attributes:
        layer: its name in the model.
        indices: parameter, by its name below the layer -> dimension -> indices of the entries that it keeps.
        selected: submodule that stays whole -> the indices of the features of its output to keep, ascending.
        counts: attribute that counts heads, by its name below the layer -> its new value.
        config: field of the core's configuration that counts heads -> its new value.
        core: the submodule that computes attention; "" is the layer itself.
        becomes: the core's class from now on.
        lineage: which original heads and key/value groups are left.
        emptied: what is left of a layer that loses its last head; None for any other.
        linears: names of the linears whose output features belong to heads.
        output: the name of the output projection.
        tensors: names of the parameters and buffers that have an axis of heads and are not weight or bias of a linear.
    """

    layer: str
    indices: Mapping[str, Indices]
    selected: Mapping[str, Tensor]
    counts: Mapping[str, int]
    config: dict[str, int]
    core: str
    becomes: type[nn.Module]
    lineage: Lineage
    emptied: Emptied | None
    linears: tuple[str, ...]
    output: str
    tensors: tuple[str, ...]

    @classmethod
    def of(cls, layer: AttentionLayer, positions: tuple[int, ...]) -> "Cut":
        """The cut by which a layer keeps the heads that are at these positions now, and loses all others.

        Raises:
            PlanError: key/value groups left with different numbers of query heads, or weights that contradict the
                layer's counts.
            UnsupportedModule: a weight that is no plain dense tensor, or a linear that is neither torch's nor one that
                transformers defines.
        """
        groups = _surviving_groups(layer, positions)
        family = layer.description
        indices = {
            parameter: {dim: kept_indices(axis, layer.sizes, positions, groups) for dim, axis in axes.items()}
            for parameter, axes in sliced_axes(layer).items()
        }
        features = {
            name: kept_indices(axis, layer.sizes, positions, groups) for name, axis in selected_axes(layer).items()
        }
        per_group = len(positions) // len(groups) if groups else layer.sizes["g"]
        sizes = {**layer.sizes, "h": len(groups), "g": per_group}
        counts, config = (
            {name: count(letters, sizes) for name, letters in numbers.items()}
            for numbers in (family.counts, family.config)
        )
        return cls(
            layer=layer.name,
            indices=indices,
            selected=features,
            counts=counts,
            config=config,
            core=family.core,
            becomes=layer.class_with(len(positions)),
            lineage=Lineage(
                tuple(layer.heads[position] for position in positions),
                layer.lineage.total_heads,
                tuple(layer.groups[position] for position in groups),
                layer.lineage.total_groups,
            ),
            emptied=None if positions else Emptied.of(layer),
            linears=tuple(family.rows),
            output=family.output,
            tensors=tuple(family.tensors),
        )

    def name_of(self, parameter: str) -> str:
        """The name in the whole model of a parameter that is given by its name within the layer."""
        return f"{self.layer}.{parameter}" if self.layer else parameter

    def kept_of(self, part: str) -> Indices:
        """What a part of the layer keeps: dimension -> indices of the entries; {} where it stays whole.

        Args:
            part: a parameter by its name below the layer; or a submodule in `selected`, whose output's features are
                given as dimension -1.
        """
        return {-1: self.selected[part]} if part in self.selected else self.indices.get(part, {})


def _surviving_groups(layer: AttentionLayer, positions: tuple[int, ...]) -> tuple[int, ...]:
    """The positions of the key/value groups that are read by the query heads at `positions`.

    Raises:
        PlanError: these groups do not all keep the same number of query heads.
    """
    members: dict[int, list[int]] = {}  # position of a group -> its heads that stay, by original number
    for position in positions:
        members.setdefault(position // layer.sizes["g"], []).append(layer.heads[position])
    if len({len(heads) for heads in members.values()}) > 1:
        listing = ", ".join(f"group {layer.groups[group]}: {heads}" for group, heads in members.items())
        raise PlanError(
            f"layer {layer.name!r}: every key/value group that stays must keep the same number of query "
            f"heads, got {listing}; mha.choose returns only plans that do"
        )
    return tuple(members)
