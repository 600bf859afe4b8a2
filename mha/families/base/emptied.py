"""What is left of a layer that keeps no head: the bias of its output, and no parameter of size 0.

Parameters of size 0 do harm: quantisers write garbage into them, adapters that are laid over them move the output, and
several optimizers and sharding tools divide by their size. So what computed the heads leaves the model, and where the
output projection stood there is an `OutputBias`, under a name of its own (`o_proj` becomes `o_proj_without_heads`), so
that nobody takes it for a linear. What the layer was is remembered on it, for later plans.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mha.families.base.description import AttentionLayer, Family, Role
from mha.layer.output_bias import OutputBias, left_of
from mha.runtime.generated_classes import Members, making_class
from mha.runtime.intercept import become
from mha.values.layout import Axis

USES = "_mha_uses"  # on a class without heads: the names of the children that its forward still needs
BEFORE = "before_emptied"  # a method of such a class, called before the other children are taken away
_EMPTIED = "_mha_emptied"


class NoFeatures(nn.Module):
    """A linear without output features, (…, e) to (…, 0), for code that goes on calling it."""

    def forward(self, features: Tensor) -> Tensor:
        """Return no features: (…, e) -> (…, 0)."""
        return features[..., :0]


@dataclass(frozen=True)
class Emptied:
    """What a layer was before it lost its last head, which its parts no longer show.

    Names of submodules are relative to the layer's module.

    Attributes:
        family, core, role: as in the layer's description.
        output: the name of the `OutputBias` that stands where the output projection was.
        axis: the axis of the context that the output projection read.
        sizes: the size of each letter in the axes' patterns, 0 for h.
    """

    family: str
    core: str
    output: str
    axis: Axis
    sizes: tuple[tuple[str, int], ...]
    role: Role | None

    @classmethod
    def of(cls, layer: AttentionLayer) -> "Emptied":
        """The record of this layer, for when it has lost all its heads."""
        family = layer.description
        sizes = {**layer.sizes, "h": 0}
        return cls(
            family.name, family.core, left_of(family.output), layer.context_axis, tuple(sizes.items()), layer.role
        )

    def described(self) -> Family:
        """The description of the module now that it has no heads: only its output is named, and nothing to slice."""
        return Family(
            name=self.family,
            matches=lambda _: True,
            sizes=lambda _: dict(self.sizes),
            columns={self.output: self.axis},
            output=self.output,
            core=self.core,
            role=lambda _: self.role,
        )


def emptied(module: nn.Module) -> Emptied | None:
    """What the module was before it lost its last head; None where it has heads, or never had any."""
    return vars(module).get(_EMPTIED)


def leave_output_bias(
    module: nn.Module, was: Emptied, output: str, linears: Iterable[str], tensors: Iterable[str]
) -> None:
    """Reduce a module whose heads have been sliced away to the bias of its output and what its forward still uses.

    All names are relative to the module.

    Args:
        was: the record of what the module was, for `emptied` to return.
        output: the name of the output projection.
        linears: the names of the linears whose output features belong to heads.
        tensors: the names of parameters and buffers outside linears that have an axis of heads.
    """
    core = module.get_submodule(was.core)
    uses = getattr(type(core), USES, None)
    _replace_output(module, output, aliased=uses is None or was.core != "")
    if uses is not None:
        getattr(core, BEFORE, lambda: None)()
        _keep_only(core, uses)
    else:  # the family's own code runs on, with no heads
        _stand_in(module, linears, tensors)
    vars(module)[_EMPTIED] = was


def name_before(name: str) -> str:
    """The original name of the output projection whose bias has this name now."""
    return name.removesuffix(left_of(""))


def _replace_output(module: nn.Module, output: str, *, aliased: bool) -> None:
    """Put an `OutputBias` in the place of the output projection.

    Args:
        aliased: whether code goes on calling it by the projection's name.
    """
    owner, _, name = output.rpartition(".")
    holder = module.get_submodule(owner)
    linear = holder._modules[name]  # not as an attribute, which its new class may define
    assert linear is not None
    bias = linear._parameters.get("bias")
    assert bias is None or isinstance(bias, nn.Parameter)
    left = OutputBias(_out_features(linear), bias).train(linear.training)
    del holder._modules[name]
    holder.add_module(left_of(name), left)
    if aliased:
        become(holder, with_output_bias(type(holder), name))


def _out_features(linear: Any) -> int:
    """The width of what the linear returns; transformers' Conv1D calls it `nf`."""
    return int(linear.nf if hasattr(linear, "nf") else linear.out_features)


@making_class
def with_output_bias(kind: Any, name: str) -> tuple[str, Members]:  # noqa: ARG001
    """A subclass in which the output projection's name leads to the `OutputBias`, which is held under another name."""
    return "WithOutputBias", {name: property(lambda self: self._modules[left_of(name)])}


def _keep_only(core: nn.Module, uses: frozenset[str]) -> None:
    """Put None in the place of all children, parameters and buffers of the core whose names are not in `uses`."""
    held: tuple[dict[str, Any], ...] = (core._modules, core._parameters, core._buffers)
    for parts in held:
        for name in parts.keys() - uses:
            parts[name] = None


def _stand_in(module: nn.Module, linears: Iterable[str], tensors: Iterable[str]) -> None:
    """Put `NoFeatures` in the place of these linears, and a buffer in that of each of these parameters of size 0."""
    for path in linears:
        owner, _, name = path.rpartition(".")
        holder = module.get_submodule(owner)
        if holder._modules.get(name) is not None:
            del holder._modules[name]
            vars(holder)[name] = NoFeatures()
    for path in tensors:
        owner, _, name = path.rpartition(".")
        holder = module.get_submodule(owner)
        parameter = holder._parameters.get(name)
        if parameter is not None and not parameter.numel():
            del holder._parameters[name]
            holder.register_buffer(name, parameter.detach(), persistent=False)
