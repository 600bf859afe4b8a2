"""Attention written with einops as vit-pytorch writes it: `to_qkv`, or `to_q` and `to_kv`, then `rearrange`.

Each class has a forward of its own, so every line of it must be one of those below: together they say that heads are
laid out as (h d) and never meet before `to_out`. It does not matter who wrote the class. A module is refused for a line
that is none of them, as where heads talk to each other.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from mha.families.base.description import Family
from mha.families.base.find import register_convention
from mha.families.reading.explain import Projections, describe
from mha.families.reading.known_lines import check_lines, home_of, known_lines, method_of
from mha.families.reading.source import UnclearError, text
from mha.runtime.generated_classes import whole
from mha.values.layout import Axis

FUSED, KEYS, OUTPUTS = ("to_qkv", "qkv"), ("to_kv", "to_k"), ("to_out", "proj")
HEADS = r"(self\.heads|h)"
OTHER = r"(context|kv_input|x_kv|x)"
SCORES = r"(dots|sim|attn)"
# What is done with the inputs, before they are heads
OF_INPUTS = (
    r"(b, n, _|b, n, \*_), h = \(\*x\.shape, self\.heads\)",
    r"(B, N, C|batch, seq, _) = x\.shape",
    r"h = self\.heads",
    r"x = self\.norm\(x\)",
    r"context = self\.(context_norm|norm_context)\(context\)",
    r"context = (x|default\(context, x\)|torch\.cat\(\(x, context\), dim=1\))",
    r"context = self\.norm\(context\) if exists\(context\) else x",
    r"kv_input = default\(context, x\)",
    r"context = x if not exists\(context\) else torch\.cat\(\(x, context\), dim=1\)",
    r"(kv_input|x_kv) = (x|context)",
    r"x_kv = torch\.cat\(\(x_kv, memories\), dim=1\)",
    r"memories = repeat\(memories, 'n d -> b n d', b=x\.shape\[0\]\) if memories\.ndim == 2 else memories",
    r"(el)?if exists\((context|mask|attn_mask|memories|self\.to_out_gates)\):",
    r"if exists\(mask\) (and|or) exists\(attn_mask\):",
    r"attn_mask = (mask|mask & attn_mask)",
    r"if kv_include_self:",
    r"else:",
    r"pass",
)
PROJECTED = (
    r"(qkv|q, k, v) = self\.(to_qkv|qkv)\(x\)\.chunk\(3, dim=-1\)",
    rf"(qkv|q, k, v) = \(self\.to_q\(x\), \*self\.to_kv\({OTHER}\)\.chunk\(2, dim=-1\)\)",
    rf"(qkv|q, k, v) = \(self\.to_q\(x\), self\.to_k\({OTHER}\), self\.to_v\({OTHER}\)\)",
    r"q = self\.to_q\(x\)",
    rf"k, v = self\.to_kv\({OTHER}\)\.chunk\(2, dim=-1\)",
)
SPLIT = (
    rf"q, k, v = map\(lambda t: rearrange\(t, 'b n \(h d\) -> b h n d', h={HEADS}\), (qkv|\(q, k, v\))\)",
    rf"q, k, v = map\(lambda t: rearrange\(t, 'b p n \(h d\) -> b p h n d', h={HEADS}\), qkv\)",
    rf"q, k, v = \(rearrange\(t, 'b n \(h d\) -> b h n d', h={HEADS}\) for t in (qkv|\(q, k, v\))\)",
)
ATTENDED = (
    r"q = q \* self\.scale",
    r"(q|k) = self\.\1_norm\(\1\)",
    rf"{SCORES} = torch\.matmul\(q, k\.transpose\(-1, -2\)\)( \* self\.scale)?",
    rf"{SCORES} = einsum\('b h i d, b h j d -> b h i j', q, k\)( \* self\.scale)?",
    rf"{SCORES} = einsum\(q, k, 'b h i d, b h j d -> b h i j'\)( \* self\.scale)?",
    r"mask = rearrange\(mask, 'b j -> b 1 1 j'\)",
    rf"mask_value = -torch\.finfo\({SCORES}\.dtype\)\.max",
    rf"{SCORES} = \1\.masked_fill\(~(mask|attn_mask), (mask_value|-torch\.finfo\(\1\.dtype\)\.max)\)",
    rf"attn = self\.attend\({SCORES}\)",
    rf"attn = {SCORES}\.softmax\(dim=-1\)",
    r"attn = self\.(dropout|attn_drop)\(attn\)",
    r"(out|x) = torch\.matmul\(attn, v\)",
    r"(out|x) = einsum\('b h i j, b h j d -> b h i d', attn, v\)",
    r"(out|x) = einsum\(attn, v, 'b h i j, b h j d -> b h i d'\)",
    r"out = F\.scaled_dot_product_attention\(q, k, v, attn_mask=attn_mask, dropout_p=[^=]*, scale=1\.0\)",
    r"out = out \* self\.to_out_gates\(x\)",
)
MERGED = (
    r"(out|x) = rearrange\(\1, 'b h n d -> b n \(h d\)'\)",
    r"out = rearrange\(out, 'b p h n d -> b p n \(h d\)'\)",
)
RETURNED = (
    r"out = self\.to_out\(out\)",
    r"return (self\.to_out\(out\)|out|self\.proj_drop\(self\.proj\(x\)\))",
)
KNOWN = known_lines(OF_INPUTS, PROJECTED, SPLIT, ATTENDED, MERGED, RETURNED)
INPUTS = frozenset(("x", "context", "mask", "attn_mask", "memories", "kv_include_self"))
EVERY_HEAD_ITS_GATE = "b ... h -> b h ... 1"
LIBRARIES = {
    "rearrange": ("einops",),
    "repeat": ("einops",),
    "einsum": ("torch", "einops"),
    "torch": ("torch",),
    "F": ("torch",),
}


@register_convention
def einops_attention(module: nn.Module) -> Family | str | None:
    """Describe a module that splits `to_qkv`, `qkv` or `to_q` into its `heads` by einops' `rearrange`.

    Returns:
        The description; the reason why such a module is refused, as where a line of its forward is not known; None for
        a module without such projections, without `to_out` or `proj`, or without `rearrange` in its file.
    """
    children = dict(module.named_children())
    fused = next((name for name in FUSED if name in children), None)
    output = next((name for name in OUTPUTS if name in children), None)
    if not output or not (fused or "to_q" in children) or not isinstance(vars(module).get("heads"), int):
        return None
    if "rearrange" not in getattr(whole(module).forward, "__globals__", {}):
        return None
    try:
        _explain_code(module)
        _explain_parts(children)
        return describe(module, _projections(module, children, fused, _output(children, output)))
    except UnclearError as reason:
        return str(reason)


def _projections(module: nn.Module, children: Mapping[str, nn.Module], fused: str | None, output: str) -> Projections:
    """The projections that the module has, as `describe` takes them.

    Args:
        fused: the linear that puts out all queries, all keys, all values; None where they are apart.
        output: the linear that reads the context.

    Raises:
        UnclearError: their widths do not fit the module's number of heads.
    """
    rows: dict[str, Axis]
    if fused:
        rows = {fused: ("(h g d)", "(h d)", "(h d)")}
    elif "to_kv" in children:
        rows = {"to_q": ("(h g d)",), "to_kv": ("(h d)", "(h d)")}
    else:
        rows = {"to_q": ("(h g d)",), "to_k": ("(h d)",), "to_v": ("(h d)",)}
    heads, wide = int(vars(module)["heads"]), {name: _features(module, name, 0) for name in rows}
    inner = _features(module, output, 1)
    if inner % heads or any(width != inner * len(rows[name]) for name, width in wide.items()):
        raise UnclearError(f"{wide} features, of which {inner} are read again, are not those of {heads} heads")
    sizes = {"h": heads, "g": 1, "d": inner // heads, "e": inner // heads}
    if isinstance(children.get("to_out_gates"), nn.Sequential):
        rows["to_out_gates.0"] = ("(h g)",)
    norms = tuple(name for name in ("norm", "norm_context", "context_norm") if name in children)
    label = f"{' + '.join(rows)} … {output}"
    return Projections(label, "", rows, output, sizes, norms, INPUTS, widths_freed=True, counts={"heads": "h g"})


def _features(module: nn.Module, name: str, dim: int) -> int:
    """How many output features (`dim` 0) or input features (1) the submodule of this name has.

    Raises:
        UnclearError: it is no linear.
    """
    linear = module.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise UnclearError(f"{name} is a {type(linear).__name__}, not a linear")
    return int(linear.weight.shape[dim])


def _output(children: Mapping[str, nn.Module], output: str) -> str:
    """The name of the linear that reads the context: that of the child `output`, or of its first step.

    vit-pytorch has an `nn.Identity` in its place, not a linear, where one head is as wide as the model.

    Raises:
        UnclearError: the child has further steps that are neither dropout nor identity.
    """
    steps = children[output]
    if not isinstance(steps, nn.Sequential):
        return output
    if not all(isinstance(step, nn.Dropout | nn.Identity) for step in list(steps)[1:]):
        raise UnclearError(f"{output} does more than project")
    return f"{output}.0"


def _explain_code(module: nn.Module) -> None:
    """Refuse a module whose forward is not known line by line.

    Raises:
        UnclearError: a line is not in `KNOWN`, or a name in `LIBRARIES` is not that of the libraries given there.
    """
    name, code = whole(module).__name__, text(module)
    check_lines(name, method_of(code, "forward"), KNOWN)
    for called, libraries in LIBRARIES.items():
        home = home_of(whole(module).forward.__globals__.get(called))
        if re.search(rf"\b{called}\b", code) and home not in libraries:
            raise UnclearError(f"{called} in the code of {name} is not that of {' or '.join(libraries)}")


def _explain_parts(children: Mapping[str, nn.Module]) -> None:
    """Refuse a module with children whose class or settings are not those that their names suggest.

    Raises:
        UnclearError: `attend` is no softmax over keys, `dropout` or `attn_drop` no dropout, or `to_out_gates` does not
            make one gate for each head.
    """
    for name, kind in {"attend": nn.Softmax, "dropout": nn.Dropout, "attn_drop": nn.Dropout}.items():
        if name in children and not isinstance(children[name], kind):
            raise UnclearError(f"{name} is a {type(children[name]).__name__}, not a {kind.__name__}")
    if "attend" in children and getattr(children["attend"], "dim", None) != -1:
        raise UnclearError("attend is not taken over keys")
    gates: Any = children.get("to_out_gates")
    if gates is not None and [type(part).__name__ for part in gates] != ["Linear", "Rearrange", "Sigmoid"]:
        raise UnclearError("to_out_gates is not one gate for each head")
    if gates is not None and gates[1].pattern != EVERY_HEAD_ITS_GATE:
        raise UnclearError(f"to_out_gates lie as {gates[1].pattern!r}")
