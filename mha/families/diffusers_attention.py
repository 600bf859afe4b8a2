"""diffusers' `Attention`, whose projections are called by a processor object: the processor's code decides.

A processor computes each head on its own if it is diffusers' own, reads of the module only what is listed here, and
ends as most of them do. One that reads more, as those with a second output projection for the text do, is refused.
"""

import ast
import functools
import textwrap
from typing import Any, cast

from torch import Tensor, nn

from mha.families.base.description import Family
from mha.families.base.emptied import USES
from mha.families.base.find import register_convention
from mha.families.reading.explain import Projections, describe, is_from
from mha.families.reading.source import UnclearError, function_of
from mha.layer.output_bias import left_of
from mha.runtime.generated_classes import Members, making_class, whole
from mha.values.layout import Axis

NAMES = {"to_q", "to_k", "to_v", "to_out"}
ROWS: dict[str, Axis] = {  # to_qkv and to_kv are there once `fuse_projections` has been called
    "to_q": ("(h g d)",),
    "to_k": ("(h d)",),
    "to_v": ("(h d)",),
    "to_qkv": ("(h g d)", "(h d)", "(h d)"),
    "to_kv": ("(h d)", "(h d)"),
}
NORMS = ("group_norm", "spatial_norm", "norm_cross")  # of the input, before it is projected
METHODS = (
    "prepare_attention_mask",
    "norm_encoder_hidden_states",
    "head_to_batch_dim",
    "batch_to_head_dim",
    "get_attention_scores",
)
NUMBERS = ("heads", "scale", "is_cross_attention", "is_causal", "residual_connection", "rescale_output_factor")
READ = frozenset((*ROWS, *NORMS, *METHODS, *NUMBERS, "to_out", "norm_q", "norm_k"))
# Arguments of a processor that are the same for all heads
GIVEN = frozenset(
    ("attn", "hidden_states", "encoder_hidden_states", "attention_mask", "temb", "image_rotary_emb", "rotary_emb")
)
INPUTS = frozenset(("cross_attention_kwargs",))
END = """
hidden_states = attn.to_out[0](hidden_states)
hidden_states = attn.to_out[1](hidden_states)
if input_ndim == 4:
    hidden_states = hidden_states.transpose(-1, -2).reshape(batch_size, channel, height, width)
if attn.residual_connection:
    hidden_states = hidden_states + residual
hidden_states = hidden_states / attn.rescale_output_factor
return hidden_states
"""
COUNTS = {"heads": "h g", "sliceable_head_dim": "h g", "inner_kv_dim": "h d"}


@register_convention
def diffusers_attention(module: nn.Module) -> Family | str | None:
    """Describe a module of diffusers that has a processor and projections such as `to_q`.

    Returns:
        The description; the reason why such a module is refused, as where its processor does something that is not
        understood; None for any other module.
    """
    children = dict(module.named_children())
    if not is_from("diffusers", module) or not hasattr(module, "processor") or not NAMES & children.keys():
        return None
    try:
        if missing := sorted(NAMES - children.keys()):
            raise UnclearError(f"{type(module).__name__} has no {' and no '.join(missing)}")
        _explain_processor(cast(Any, module).processor)
        return describe(module, _projections(module), empty=without_processor(whole(module)))
    except UnclearError as reason:
        return str(reason)


def _projections(module: Any) -> Projections:
    """The projections that the module has, as `describe` takes them.

    Raises:
        UnclearError: `_sizes` finds no number of heads.
    """
    children = dict(module.named_children())
    rows = {name: axis for name, axis in ROWS.items() if name in children}
    norms = tuple(name for name in NORMS if name in children)
    counts = {name: letters for name, letters in COUNTS.items() if name in vars(module)}
    return Projections(
        "to_q … to_out", "", rows, "to_out.0", _sizes(module), norms, INPUTS, widths_freed=True, counts=counts
    )


def _sizes(module: Any) -> dict[str, int]:
    """The size of each letter in the axes' patterns, as `Family.sizes` returns it for the module.

    Raises:
        UnclearError: `to_out` does not begin with a linear, the projections' widths fit no number of heads, or heads
            share keys and the processor does not say how.
    """
    output = next(iter(module.to_out), None)
    if not isinstance(output, nn.Linear):
        raise UnclearError("to_out holds no output projection")
    heads, queries, keys, inner = module.heads, module.to_q.out_features, module.to_k.out_features, output.in_features
    width = inner // heads
    groups = keys // width if width else 0
    if inner % heads or queries != inner or not groups or keys % width or heads % groups:
        raise UnclearError(f"queries, keys and output are {queries}, {keys} and {inner} wide: no heads fit")
    if groups != heads and "kv_heads" not in _code(cast(Any, type(module.processor))):
        raise UnclearError(f"its processor does not say how {heads} heads share {groups} keys")
    return {"h": groups, "g": heads // groups, "d": width, "e": width}


def _explain_processor(processor: Any) -> None:
    """Refuse a processor whose code does not show that it computes each head on its own.

    Raises:
        UnclearError: it is not diffusers' own, holds parameters, takes an argument that is not in `GIVEN`, reads an
            attribute of the module that is not in `READ`, hands the module on, or does not end with `END`.
    """
    kind: Any = type(processor)
    name = f"its processor {kind.__name__}"
    if not kind.__module__.startswith("diffusers."):
        raise UnclearError(f"{name} is not diffusers' own")
    if isinstance(processor, nn.Module):
        raise UnclearError(f"{name} holds parameters of its own")
    tree = ast.parse(_code(kind)).body[0]
    assert isinstance(tree, ast.FunctionDef)
    if unknown := [parameter.arg for parameter in tree.args.args[1:] if parameter.arg not in GIVEN]:
        raise UnclearError(f"{name} is given {', '.join(unknown)}, which may differ from head to head")
    nodes = list(ast.walk(tree))
    read = [node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_attn(node.value)]
    if more := sorted(set(read) - READ):
        raise UnclearError(f"{name} reads {', '.join(more)}, which is not understood")
    if sum(map(_is_attn, nodes)) > len(read):  # the module itself is named, and not an attribute of it
        raise UnclearError(f"{name} hands the module on to other code")
    if not _code(kind).endswith(textwrap.indent(END, "    ").rstrip()) or _code(kind).count("attn.to_out[0]") != 1:
        raise UnclearError(f"{name} does something of its own after the output projection")


def _is_attn(node: ast.AST) -> bool:
    """Whether the node is the name `attn`, by which a processor is handed the module."""
    return isinstance(node, ast.Name) and node.id == "attn"


@functools.cache
def _code(kind: Any) -> str:
    """The source of the `__call__` of a processor's class, in `ast.unparse`'s spelling."""
    return ast.unparse(function_of(kind.__call__, f"its processor {kind.__name__}"))


@making_class
def without_processor(kind: Any) -> tuple[str, Members]:  # noqa: ARG001
    """A subclass for no heads: it returns the output's bias for each token or pixel, after the module's last steps."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,  # noqa: ARG001
        attention_mask: Tensor | None = None,  # noqa: ARG001
        **cross_attention_kwargs: Any,  # noqa: ARG001
    ) -> Tensor:
        is_image = hidden_states.dim() == 4
        tokens = hidden_states.flatten(2).transpose(1, 2) if is_image else hidden_states
        output: Tensor = self.get_submodule(left_of("to_out.0"))(tokens[..., :0])
        output = self.get_submodule("to_out.1")(output)  # dropout
        output = output.transpose(1, 2).reshape(hidden_states.shape) if is_image else output
        output = output + hidden_states if self.residual_connection else output
        return output / self.rescale_output_factor

    return "WithoutHeads", {"forward": forward, USES: frozenset({"to_out"})}
