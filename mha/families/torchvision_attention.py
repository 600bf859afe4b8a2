"""torchvision's attention in windows: Swin's, version 1 and 2, and MaxViT's.

Swin's forward hands the weights of its linears to a function that derives the width of a head from that of the model:
a masked or sliced module calls that function with the width that its linears have, and its output projection as a
module. The library need not be imported, and isn't.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from mha.families.base.description import Family
from mha.families.base.find import register_convention
from mha.families.reading.explain import Projections, describe
from mha.families.reading.rewrite_lines import Changes, with_changes
from mha.families.reading.source import UnclearError
from mha.runtime.generated_classes import whole
from mha.values.layout import Axis

THIRDS: Axis = ("(h g d)", "(h d)", "(h d)")
SHIFTED = "shifted_window_attention"
IN_SHIFTED: Changes = (
    ("3, num_heads, C // num_heads)", "3, num_heads, qkv_weight.shape[0] // (3 * num_heads))"),
    ("q * (C // num_heads) **", "q * (qkv_weight.shape[0] // (3 * num_heads)) **"),
    (
        "attn.matmul(v).transpose(1, 2).reshape(x.size(0), x.size(1), C)",
        "attn.matmul(v).transpose(1, 2).reshape(x.size(0), x.size(1), -1)",
    ),
    ("F.linear(x, proj_weight, proj_bias)", "proj_weight(x)"),
)


@dataclass(frozen=True)
class Convention:
    """How one of the library's classes computes attention.

    Attributes:
        fused: the linear that puts out all queries, all keys, all values.
        output: the linear that reads the context.
        changes: code of its forward that is right only with all heads, each with what replaces it.
        helper: the name of a function, called by the forward, that holds such code too; "" for none.
        in_helper: the changes of that function.
    """

    fused: str
    output: str
    changes: Changes
    helper: str = ""
    in_helper: Changes = ()


CONVENTIONS: Mapping[str, Convention] = {
    "ShiftedWindowAttention": Convention("qkv", "proj", (("self.proj.weight", "self.proj"),), SHIFTED, IN_SHIFTED),
    "RelativePositionalMultiHeadAttention": Convention(
        "to_qkv",
        "merge",
        (("out.permute(0, 1, 3, 2, 4).reshape(B, G, P, D)", "out.permute(0, 1, 3, 2, 4).reshape(B, G, P, -1)"),),
    ),
}


@register_convention
def torchvision_attention(module: nn.Module) -> Family | str | None:
    """Describe a module of one of torchvision's classes in `CONVENTIONS`, or of a class derived from one.

    Returns:
        The description; the reason why such a module is refused, as where its code or its widths are not those that are
        known; None for any other module.
    """
    bases = [base.__name__ for base in whole(module).__mro__ if base.__module__.startswith("torchvision.")]
    known = next((CONVENTIONS[name] for name in bases if name in CONVENTIONS), None)
    try:
        return None if known is None else _described(module, known)
    except UnclearError as reason:
        return str(reason)


def _described(module: nn.Module, known: Convention) -> Family:
    """The description of a module that computes attention as this convention says.

    Raises:
        UnclearError: the fused linear's output does not divide into three times the heads, or the forward lacks code
            that is to be changed.
    """
    kind, heads = whole(module), _heads(module)
    fused = cast(Any, module.get_submodule(known.fused))
    if fused.out_features % (3 * heads):
        raise UnclearError(
            f"{known.fused} puts out {fused.out_features} features, which are not those of {heads} heads"
        )
    width = fused.out_features // (3 * heads)
    sizes = {"h": heads, "g": 1, "d": width, "e": width}
    name = f"{known.fused} {THIRDS[0]} … {known.output}"
    projections = Projections(name, "", {known.fused: THIRDS}, known.output, sizes, widths_freed=True)
    replacement = with_changes(kind, known.changes, known.helper, known.in_helper)
    return describe(module, projections, replacement=replacement)


def _heads(module: nn.Module) -> int:
    """How many heads the module has, as its own attribute says."""
    attributes = vars(module)
    return int(attributes["num_heads"] if "num_heads" in attributes else attributes["n_heads"])
