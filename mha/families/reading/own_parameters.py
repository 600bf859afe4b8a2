"""What an attention module holds beside its projections, and where heads lie in it.

A parameter is known by its name, and its shape is checked. Where one is unknown, or has another shape, the module is
refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from mha.families.reading.after_output import after_output
from mha.families.reading.source import UnclearError, text
from mha.values.layout import Axis, count

# Parameter -> what each of its dimensions counts: "h" query heads, "k" key/value groups, "d" the width of a head,
# "hd" the width of all query heads, "kd" of all keys, "1" one, "_" anything else.
PARAMETERS = {
    "sinks": "h",
    "gate_bias": "h",
    "logit_scale": "h 1 1",
    "temperature": "h 1 1",
    "gru_rel_pos_const": "1 h 1 1",
    "bias_u": "h d",
    "bias_v": "h d",
    "q_bias": "hd",
    "k_bias": "kd",
    "v_bias": "hd",
    "pos_bias_u": "h d",
    "pos_bias_v": "h d",
    "q_norm.weight": "h d",
    "q_norm.bias": "h d",
    "k_norm.weight": "k d",
    "k_norm.bias": "k d",
    "q_norm.gamma": "h 1 d",
    "k_norm.gamma": "k 1 d",
    "relative_position_bias_table": "_ h",
    "relative_position_bias.relative_position_bias_table": "_ h",
    "continuous_position_bias_mlp.0.weight": "_ _",
    "continuous_position_bias_mlp.0.bias": "_",
    "continuous_position_bias_mlp.2.weight": "h _",
    "cpb_mlp.0.weight": "_ _",
    "cpb_mlp.0.bias": "_",
    "cpb_mlp.2.weight": "h _",
    "rel_pos_emb.weight": "_ d",
    "distance_embedding.weight": "_ d",
    "rel_pos_h": "_ d",
    "rel_pos_w": "_ d",
    "emb_rel_k": "1 _ d",
    "emb_rel_v": "1 _ d",
}
AXES = {"h": ("(h g)",), "k": ("(h)",), "hd": ("(h g d)",), "kd": ("(h d)",)}
GATES = ("gate_proj", "g_proj")
POSITIONS = ("relative_k_proj", "linear_pos", "pos_key_proj", "pos_query_proj", "pos_proj", "pos_q_proj")
# Further queries, keys and values, of what some of the tokens attend to.
FURTHER = ("w2e_query", "e2w_query", "e2e_query", "query_global", "key_global", "value_global")
# What is done to the input before it is projected: fewer keys and values are made of it, keys to
# attend to are chosen, or it is normalised.
REDUCTIONS = ("sequence_reduction", "spatial_reduction", "sr", "layer_norm", "indexer")
CONVOLUTIONS = tuple(f"convolution_projection_{name}" for name in ("query", "key", "value"))
NORMS_OF_INPUT = ("layernorm1", "layernorm2", "pre_norm")


@dataclass(frozen=True)
class Own:
    """Where heads lie in what a module holds beside its projections; names are relative to the module.

    Attributes:
        rows: linear -> axis of its output features.
        tensors: parameter or buffer -> dimension -> axis.
    """

    rows: Mapping[str, Axis]
    tensors: Mapping[str, Mapping[int, Axis]]


def explain_own(core: nn.Module, known: frozenset[str], sizes: Mapping[str, int]) -> Own:
    """Find which axes of the core's parameters and buffers, beside those of its projections, hold heads.

    Args:
        known: the names of children that are not looked into, as those which hold the projections.
        sizes: letter in the axes' patterns -> its size.

    Raises:
        UnclearError: a parameter, or a child's, is not known by its name and shape, and is neither a single number nor
            a vector as long as one head is wide. Unknown buffers are taken to hold no heads.
    """
    rows: dict[str, Axis] = {}
    tensors: dict[str, dict[int, Axis]] = {}
    whole = known | {after_output(core).norm, *_reductions(core)}
    one_head = ((sizes["d"],), (sizes["e"],), (1,), ())
    for name, child in core.named_children():
        shapes = [tuple(parameter.shape) for parameter in child.parameters()]
        if name in whole or all(shape in one_head for shape in shapes):
            continue  # no parameters, or a norm over one head's width, the same for all
        if axis := _linear_axis(name, child, sizes):
            rows[name] = axis
        elif (inside := _module_axes(name, child, sizes)) is not None:
            tensors |= inside
        else:
            raise UnclearError(f"{type(core).__name__}.{name} ({type(child).__name__}) is not understood")
    for name, parameter in core.named_parameters(recurse=False):
        if (axes := _axes(name, tuple(parameter.shape), sizes)) is not None:
            tensors[name] = axes
        elif tuple(parameter.shape) not in one_head:
            raise UnclearError(f"{type(core).__name__}.{name} of shape {tuple(parameter.shape)} is not understood")
    for name, buffer in core.named_buffers(recurse=False):
        tensors[name] = _axes(name, tuple(buffer.shape), sizes) or {}
    return Own(rows, {name: axes for name, axes in tensors.items() if axes})


def _linear_axis(name: str, child: nn.Module, sizes: Mapping[str, int]) -> Axis | None:
    """The axis of a child's output features; None unless it is an `nn.Linear` that is known by its name and width.

    Known are gates (one feature for each head, or as many as the head's values have) and projections of positions, and
    of further queries, keys and values (as wide as all query heads).
    """
    if not isinstance(child, nn.Linear):
        return None
    axes: dict[int, Axis] = {count("h g", sizes): ("(h g)",), count("h g e", sizes): ("(h g e)",)}
    if name in GATES:
        return axes.get(child.out_features)
    return ("(h g d)",) if name in (*POSITIONS, *FURTHER) and child.out_features == count("h g d", sizes) else None


def _module_axes(name: str, child: nn.Module, sizes: Mapping[str, int]) -> dict[str, dict[int, Axis]] | None:
    """Parameter, as "child.weight" -> dimension -> axis of heads; None where one of the child's is not known."""
    every = {
        f"{name}.{inner}": _axes(f"{name}.{inner}", tuple(parameter.shape), sizes)
        for inner, parameter in child.named_parameters()
    }
    known = {name: axes for name, axes in every.items() if axes is not None}
    return known if len(known) == len(every) else None


def _axes(name: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> dict[int, Axis] | None:
    """Dimension -> axis, for dimensions that hold heads; None where `PARAMETERS` has no such name of such a shape."""
    counted = {"h": count("h g", sizes), "k": sizes["h"], "d": sizes["d"], "1": 1}
    counted |= {"hd": count("h g d", sizes), "kd": count("h d", sizes)}
    letters = PARAMETERS.get(name, "").split()
    if len(letters) != len(shape) or not letters:
        return None
    if any(letter != "_" and counted[letter] != size for letter, size in zip(letters, shape, strict=True)):
        return None
    return {dim: AXES[letter] for dim, letter in enumerate(letters) if letter in AXES}


def _reductions(core: nn.Module) -> list[str]:
    """The names of the core's submodules that its code applies to the input before that is projected.

    Only those are found that `REDUCTIONS`, `CONVOLUTIONS` or `NORMS_OF_INPUT` names.
    """
    code = text(core)
    of_input = r"self\.{}\((?:self\.\w+\()?hidden_states[,)]"
    convolutions = [name for name in CONVOLUTIONS if f"self.{name}(hidden_state)" in code]
    norms = [name for name in NORMS_OF_INPUT if re.search(rf"(hidden_states|inputs) = self\.{name}\(\1\)", code)]
    return convolutions + norms + [name for name in REDUCTIONS if re.search(of_input.format(name), code)]
