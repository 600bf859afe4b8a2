"""transformers' attention with queries, keys and values in one linear.

It is recognised by the linear's name; how the three lie in it can't be seen from its shape, so the code that takes them
apart must say it.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from mha.families.base.description import Family
from mha.families.base.find import register_convention
from mha.families.reading.explain import COUNTS, Projections, describe, head_width, is_from_transformers
from mha.families.reading.source import UnclearError, text
from mha.values.layout import Axis

FUSED = ("qkv", "query_key_value", "c_attn", "qkv_proj", "Wqkv", "att_proj")
OUTPUTS = ("proj", "projection", "dense", "c_proj", "out_proj", "o_proj", "Wo")
CORES = ("attention", "self", "attn")
NONE: Mapping[str, str] = MappingProxyType({})
THIRDS: Axis = ("(h g d)", "(h d)", "(h d)")
INTERLEAVED: Axis = ("(h s d)",)
JOINT: Axis = ("(h (g+2) d)",)
HEADS = r"self\.(?:num_heads|num_attention_heads|n_heads?|heads)"
KV = r"self\.(?:kv_dim|num_key_value_heads \* self\.head_dim)"
# Code that takes a fused tensor apart, and the layout that it tells
LAYOUTS: tuple[tuple[str, Axis], ...] = (
    (rf"{HEADS}, 3, self\.head_dim|{HEADS}, 3 \* self\.head|-1, 3 \* self\.head_size", INTERLEAVED),
    (r"self\.transpose_for_scores\(qp\)\.chunk\(3, dim=-1\)", INTERLEAVED),
    (rf"[ (]3, (?:{HEADS}|-1)(?:, |\))", THIRDS),
    (r"\.chunk\(3, dim=2\)|\.split\(self\.(?:split_size|embed_dim), dim=2\)", THIRDS),
    (rf"\.split\([(\[]self\.(?:q_dim|embed_dim|hidden_size), {KV}, {KV}[)\]]", THIRDS),
    (r"query_pos \+ self\.num_key_value_heads", THIRDS),
    (rf"{HEADS} \+ 2, self\.head_dim\)", THIRDS),
    (rf"-1, {HEADS} // self\.num_kv_heads \+ 2, self\.head_dim\)", JOINT),
)


@register_convention
def fused_projections(module: nn.Module) -> Family | str | None:
    """Describe a module of transformers with queries, keys and values in one linear.

    Returns:
        The description; the reason why such a module is refused, as where its code does not say how the three lie in
        it; None for any other module.
    """
    return describe_fused(module) if is_from_transformers(module) else None


def describe_fused(
    module: nn.Module, *, counts: Mapping[str, str] = NONE, empty: type[nn.Module] | None = None
) -> Family | str | None:
    """What `fused_projections` returns, also of a module of another library that is written in transformers' way.

    Args:
        counts: further attributes that count heads, as in `Family`.
        empty: the description's `without_heads`, where the library has its own.
    """
    places = _find(module)
    if places is None:
        return None
    core, fused, output = places
    try:
        inner = module.get_submodule(core)
        layout = _layout(inner)
        sizes = _sizes(inner, _features(module, fused), _features(module, output), layout)
        name = f"{fused.removeprefix(core + '.')} {layout[0]} … {output}"
        return describe(module, Projections(name, core, {fused: layout}, output, sizes, counts=counts), empty=empty)
    except UnclearError as reason:
        return str(reason)


def _find(module: nn.Module) -> tuple[str, str, str] | None:
    """The names of the core ("" for the module itself), its fused linear and the output projection; None without them.

    They are known by the names in `CORES`, `FUSED` and `OUTPUTS`; a core of its own has its output at `output.dense`.
    """
    children = dict(module.named_children())
    fused = next((name for name in FUSED if name in children), None)
    output = next((name for name in OUTPUTS if name in children), None)
    if fused and output:
        return "", fused, output
    beside = dict(children["output"].named_children()) if "output" in children else {}
    for core in CORES:
        inner = dict(children[core].named_children()) if core in children else {}
        fused = next((name for name in (*FUSED, "in_proj") if name in inner), None)
        if fused and isinstance(beside.get("dense"), nn.Linear):
            return core, f"{core}.{fused}", "output.dense"
    return None


def _layout(module: nn.Module) -> Axis:
    """The axis that says how queries, keys and values lie in the output of the fused linear.

    Raises:
        UnclearError: the code fits none of the `LAYOUTS`, or several.
    """
    code = text(module)
    layouts = {layout for pattern, layout in LAYOUTS if re.search(pattern, code)}
    if len(layouts) != 1:
        raise UnclearError(f"its code does not say clearly how queries, keys and values lie ({len(layouts)} readings)")
    return layouts.pop()


def _features(module: nn.Module, name: str) -> tuple[int, int]:
    """How many input and output features a linear has, whichever way round its weight is.

    Raises:
        UnclearError: it is no linear.
    """
    linear = module.get_submodule(name)
    weight = linear._parameters.get("weight")
    if weight is None or weight.dim() != 2:
        raise UnclearError(f"{name} is a {type(linear).__name__}, not a linear")
    rows, columns = weight.shape
    return (rows, columns) if type(linear).__name__ == "Conv1D" else (columns, rows)


def _sizes(module: nn.Module, fused: tuple[int, int], output: tuple[int, int], layout: Axis) -> dict[str, int]:
    """The size of each letter in the axes' patterns, as `Family.sizes` returns it for the module.

    Args:
        fused, output: numbers of input and output features of the two linears.
        layout: the axis of the fused linear's output.

    Raises:
        UnclearError: no attribute gives the width or the number of heads, or the features are those of no number of
            heads and groups of that width.
    """
    total, inner = fused[1], output[0]
    d = head_width(module)
    if d is None:
        heads = next((vars(module)[name] for name in COUNTS if name in vars(module) and COUNTS[name] == "h g"), 0)
        if not heads or inner % heads:
            raise UnclearError("neither the width nor the number of heads is clear")
        d = inner // heads
    groups = (total - inner) // (2 * d)
    heads = inner // d
    if (
        inner % d
        or (total - inner) % (2 * d)
        or not groups
        or heads % groups
        or (layout == INTERLEAVED and groups != heads)
    ):
        raise UnclearError(f"{total} rows and {inner} output columns hold no number of heads of width {d}")
    return {"h": groups, "g": heads // groups, "d": d, "e": d, "s": 3}
