"""timm's attention to fewer keys than there are tokens: PVT v2's, and Twins' over the whole image.

One linear puts out keys and values, of an image that a convolution or a pool has made smaller; that convolution is the
same for all heads and stays whole. Twins' code derives the width of a head from that of the model: a masked or sliced
module reads it off its linears.
"""

import re
from typing import Any, cast

from torch import nn

from mha.families.base.description import Family
from mha.families.base.find import register_convention
from mha.families.reading.explain import Projections, describe, head_count, is_from
from mha.families.reading.rewrite_lines import Changes, with_changes
from mha.families.reading.source import UnclearError, text
from mha.runtime.generated_classes import whole

NAMES = {"q", "kv", "proj"}
REDUCTIONS = ("pool", "sr", "norm", "act")
QUERIES = re.compile(r"q = self\.q\(x\)\.reshape\(B, N, self\.num_heads, .*\)\.permute\(0, 2, 1, 3\)")
KEYS = re.compile(r"kv = self\.kv\(x\)\.reshape\(B, -1, 2, self\.num_heads, .*\)\.permute\(2, 0, 3, 1, 4\)")
HALVES = "k, v = kv.unbind(0)"
# What may be done to x between queries and keys: it is made smaller
SMALLER = re.compile(
    r"x = (x\.permute\(0, 2, 1\)\.reshape\(B, C, (H, W|\*size)\)"
    r"|self\.sr\((x|self\.pool\(x\))\)\.reshape\(B, C, -1\)\.permute\(0, 2, 1\)|self\.(norm|act)\(x\))"
)
ENDS = "x = self.proj(x)\n    x = self.proj_drop(x)\n    return x"
CONTEXT: Changes = (("x = x.transpose(1, 2).reshape(B, N, C)", "x = x.transpose(1, 2).reshape(B, N, -1)"),)
DERIVED: Changes = (
    ("reshape(B, N, self.num_heads, C // self.num_heads)", "reshape(B, N, self.num_heads, -1)"),
    (
        "reshape(B, -1, 2, self.num_heads, C // self.num_heads)",
        "reshape(B, -1, 2, self.num_heads, self.q.out_features // self.num_heads)",
    ),
)


@register_convention
def reduced_keys(module: nn.Module) -> Family | str | None:
    """Describe a module of timm with the projections `q`, `kv` and `proj`.

    Returns:
        The description; the reason why such a module is refused, as where its code does not say how queries, keys and
        values lie; None for any other module.
    """
    children = dict(module.named_children())
    if not is_from("timm", module) or not children.keys() >= NAMES:
        return None
    try:
        if wrong := [name for name in sorted(NAMES) if not isinstance(children[name], nn.Linear)]:
            raise UnclearError(f"{wrong[0]} is a {type(children[wrong[0]]).__name__}, not a linear")
        _explain_code(module)
        reduced = tuple(name for name in REDUCTIONS if name in children)
        rows = {"q": ("(h g d)",), "kv": ("(h d)", "(h d)")}
        projections = Projections("q, kv … proj", "", rows, "proj", _sizes(module), reduced, widths_freed=True)
        changes = (*CONTEXT, *DERIVED) if "C // self.num_heads" in text(module) else CONTEXT
        return describe(module, projections, replacement=with_changes(whole(module), changes))
    except UnclearError as reason:
        return str(reason)


def _sizes(module: nn.Module) -> dict[str, int]:
    """The size of each letter in the axes' patterns, as `Family.sizes` returns it for the module.

    Raises:
        UnclearError: the linears' widths do not fit the module's number of heads.
    """
    linears, heads = cast(Any, module), head_count(module)
    inner = linears.proj.in_features
    if not heads or inner % heads or (linears.q.out_features, linears.kv.out_features) != (inner, 2 * inner):
        raise UnclearError(f"an output that reads {inner} features does not read {heads} heads")
    return {"h": heads, "g": 1, "d": inner // heads, "e": inner // heads}


def _explain_code(module: nn.Module) -> None:
    """Refuse a module whose code does not say how queries, keys and values lie.

    Raises:
        UnclearError: the lines that split queries, keys and values are not those known, something follows the output
            projection, or the input is changed between queries and keys other than by making it smaller.
    """
    code, name = text(module), type(module).__name__
    if not QUERIES.search(code) or not KEYS.search(code) or HALVES not in code:
        raise UnclearError(f"the code of {name} does not say clearly how queries, keys and values lie")
    if not code.rstrip().endswith(ENDS):
        raise UnclearError(f"{name} does something after its output projection")
    between = code[code.index("q = self.q(x)") : code.rindex("kv = self.kv(x)")]
    lines = [line.strip() for line in between.splitlines() if line.strip().startswith("x = ")]
    if unknown := [line for line in lines if not SMALLER.fullmatch(line)]:
        raise UnclearError(f"the code of {name} says {unknown[0]!r}, which is not understood")
