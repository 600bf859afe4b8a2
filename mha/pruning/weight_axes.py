"""Which parameters of a layer hold heads, and along which axes, checked against the weights that are really there."""

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer
from mha.families.base.description import parameter_at, part_of
from mha.families.base.gathering import selected
from mha.families.base.linears import is_conv1d
from mha.values.errors import PlanError, UnsupportedModule
from mha.values.layout import Axis, width

LINEARS = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)


def sliced_axes(layer: AttentionLayer) -> dict[str, dict[int, Axis]]:
    """Every parameter or buffer of the layer that holds heads, by name below the layer -> dimension -> axis of heads.

    Raises:
        PlanError: a weight has another length along an axis than the layer's counts of heads say.
        UnsupportedModule: a weight is not a plain dense tensor (parametrized, quantised, sharded), or a linear is
            neither torch's nor one that transformers defines.
    """
    family = layer.description
    axes = {name: dict(tensor) for name, tensor in family.tensors.items()}
    rows, columns = (
        {name: axis for name, axis in linears.items() if part_of(layer.module, name, family) is not None}
        for linears in (family.rows, family.columns)
    )
    for linear, axis in rows.items():
        axes.setdefault(f"{linear}.weight", {})[_features_dim(layer, linear)] = axis
        axes.setdefault(f"{linear}.bias", {})[0] = axis
    for linear, axis in columns.items():
        axes.setdefault(f"{linear}.weight", {})[1 - _features_dim(layer, linear)] = axis
    present = {name: dims for name, dims in axes.items() if _is_there(layer, name)}
    for name, dims in present.items():
        for dim, axis in dims.items():
            _check_size(layer, name, dim, axis)
    return present


def selected_axes(layer: AttentionLayer) -> dict[str, Axis]:
    """Submodule that stays whole, and from whose output features of heads are selected -> the axis of those features.

    Raises:
        PlanError: the features that were selected from a submodule at an earlier pruning are not as many as the layer's
            counts of heads say.
    """
    for name, axis in layer.description.selected.items():
        expected, returned = width(axis, layer.sizes), selected(layer.module.get_submodule(name))
        if returned not in (None, expected):
            raise PlanError(
                f"layer {layer.name!r}: {name} returns {returned} features, but {layer.num_heads} heads need "
                f"{expected}; weights and counts were changed by hand"
            )
    return dict(layer.description.selected)


def _is_there(layer: AttentionLayer, name: str) -> bool:
    """Whether the layer has a parameter or buffer of that name.

    Raises:
        UnsupportedModule: what it has there is not a plain dense tensor, and so can't be sliced.
    """
    owner, _, attribute = name.rpartition(".")
    held, parameter = getattr(layer.module.get_submodule(owner), attribute, None), parameter_at(layer.module, name)
    if held is None and parameter is None:
        return False
    plain = (nn.Parameter, Tensor)
    if parameter is None or type(parameter) not in plain or parameter.layout != torch.strided or parameter.is_quantized:
        kind = type(held)
        raise UnsupportedModule(
            f"layer {layer.name!r}: {name} is no plain dense parameter ({kind.__module__}.{kind.__qualname__}; "
            "parametrized, quantised or sharded?); turn it into one before pruning"
        )
    return True


def _features_dim(layer: AttentionLayer, name: str) -> int:
    """The dimension of the weight of the layer's linear `name` that counts output features: 0, or 1 for a Conv1D.

    Raises:
        UnsupportedModule: it is neither torch's linear nor one that transformers defines, or has no plain weight.
    """
    linear = layer.module.get_submodule(name)
    known = type(linear) in LINEARS or _is_a_models_own(linear) or is_conv1d(linear)
    if not known or parameter_at(layer.module, f"{name}.weight") is None:
        raise UnsupportedModule(
            f"layer {layer.name!r}: {name} is a {type(linear).__name__} whose weight is not a plain "
            "parameter of nn.Linear (parametrized or quantised?); remove that before pruning"
        )
    return 1 if is_conv1d(linear) else 0


def _is_a_models_own(linear: nn.Module) -> bool:
    """Whether its class is a subclass of `nn.Linear` that transformers defines for one of its models, as for Falcon."""
    return isinstance(linear, nn.Linear) and type(linear).__module__.startswith("transformers.models.")


def _check_size(layer: AttentionLayer, name: str, dim: int, axis: Axis) -> None:
    """Refuse a parameter with more or fewer entries along dimension `dim` than the layer's heads take up.

    Args:
        name: that of the parameter, below the layer.
        axis: how heads lie along that dimension.

    Raises:
        PlanError: the numbers differ, as after weights or counts were changed by hand.
    """
    parameter = parameter_at(layer.module, name)
    assert parameter is not None
    expected, size = width(axis, layer.sizes), parameter.shape[dim]
    if expected != size:
        raise PlanError(
            f"layer {layer.name!r}: {name} has {size} positions along dimension {dim}, but "
            f"{layer.num_heads} heads of width {layer.head_dim} in {layer.num_kv_heads} key/value groups need "
            f"{expected}; weights and counts were changed by hand"
        )
