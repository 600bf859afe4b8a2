"""transformers' attention with separate linears for queries, keys, values and output.

It is recognised by the names of the linears. Heads may be grouped, queries gated, heads normalised and given sinks. In
BERT and its kin the output projection stands beside the module that computes attention.
"""

from collections.abc import Mapping

from torch import nn

from mha.families.base.description import Family
from mha.families.base.find import register_convention
from mha.families.full_width_norms import normalises_all_heads
from mha.families.gated_bias import has_gated_bias
from mha.families.reading.explain import Projections, describe, head_count, head_width, is_from_transformers
from mha.families.reading.source import UnclearError, text
from mha.families.shared_keys import has_shared_keys
from mha.values.layout import Axis

PROJECTIONS = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q", "k", "v"),
    ("q_lin", "k_lin", "v_lin"),
    ("linear_q", "linear_k", "linear_v"),
    ("Wq", "Wk", "Wv"),
    ("query_proj", "key_proj", "value_proj"),
    ("projection_query", "projection_key", "projection_value"),
    ("project_q", "project_k", "project_v"),
)
OUTPUTS = (
    "o_proj",
    "out_proj",
    "o",
    "out_lin",
    "linear_out",
    "proj",
    "projection_layer",
    "dense",
    "Wo",
    "attention_out",
    "output",
)
BESIDE = ("output.dense", "output")
# What tells modules of other conventions, which have the same linears and more
OTHERS = (normalises_all_heads, has_shared_keys, has_gated_bias)
CORES = ("self", "attention", "attn", "att", "longformer_self_attn")


@register_convention
def separate_projections(module: nn.Module) -> Family | str | None:
    """Describe a module of transformers with a linear each for queries, keys, values and output.

    Returns:
        The description; the reason why such a module is refused, as where their widths fit no number of heads; None for
        a module without these linears, of another library, or of another convention that has them too (`OTHERS`).
    """
    if not is_from_transformers(module) or any(is_another(module) for is_another in OTHERS):
        return None
    return describe_separate(module)


def describe_separate(module: nn.Module, *, empty: type[nn.Module] | None = None) -> Family | str | None:
    """What `separate_projections` returns, also of a module of another library that is written in transformers' way.

    Args:
        empty: the description's `without_heads`, where the library has its own.
    """
    places = _find(module)
    if places is None:
        return None
    core, names, output = places
    try:
        sizes, query = _sizes(module, core, names, output)
        rows: dict[str, Axis] = {names[0]: query, names[2]: ("(h e)",), names[1]: ("(h d)",)}
        name = f"{names[0].removeprefix(core + '.')} … {output}"
        return describe(module, Projections(name, core, rows, output, sizes), empty=empty)
    except UnclearError as reason:
        return str(reason)


def _values_are_keys(module: nn.Module) -> bool:
    """Whether the module has no projection of values, and its code takes the projected keys for them (Gemma 4)."""
    return "v_proj" in vars(module) and "value_states = key_states" in text(module)


def _find(module: nn.Module) -> tuple[str, tuple[str, ...], str] | None:
    """The names of the core ("" for the module itself), the linears of queries, keys and values, and the output's.

    None where one is missing. A module that takes its keys for values has the name of the keys' linear twice.
    """
    children = dict(module.named_children())
    names = _projection_names(children)
    if names is None and _values_are_keys(module):
        names = _projection_names({**children, "v_proj": children.get("k_proj", nn.Identity())})
        names = names and (*names[:2], names[1])
    if names:
        output = next((linear for name in OUTPUTS if (linear := _linear(children, name))), None)
        return ("", names, output) if output else None
    output = next((name for name in BESIDE if isinstance(_submodule(module, name), nn.Linear)), None)
    for core in CORES:
        names = _projection_names(dict(children[core].named_children())) if core in children else None
        if names and output:
            return core, tuple(f"{core}.{name}" for name in names), output
    return None


def _submodule(module: nn.Module, name: str) -> nn.Module | None:
    """The submodule of that dotted name; None where there is none."""
    return dict(module.named_modules()).get(name)


def _projection_names(children: Mapping[str, nn.Module]) -> tuple[str, ...] | None:
    """The names of the linears of queries, keys and values among the children; None where they are not all there."""
    for names in PROJECTIONS:
        linears = tuple(_linear(children, name) for name in names)
        if all(linears):
            return tuple(linear for linear in linears if linear)
    return None


def _linear(children: Mapping[str, nn.Module], name: str) -> str | None:
    """`name` where the child of that name is a linear, `name.linear` where it wraps one and no more; otherwise None.

    Gemma 4 wraps linears to clip what passes through them.
    """
    child = children.get(name)
    if isinstance(child, nn.Linear):
        return name
    if child is None or not is_from_transformers(child) or child._parameters:
        return None  # one that computes more than its linear, as an adapter does
    inner = dict(child.named_children())
    return f"{name}.linear" if list(inner) == ["linear"] and isinstance(inner["linear"], nn.Linear) else None


def _sizes(module: nn.Module, core: str, names: tuple[str, ...], output: str) -> tuple[dict[str, int], Axis]:
    """The size of each letter in the axes' patterns, and the axis of the queries.

    Queries are twice as wide where half of each head is a gate.

    Args:
        core, names, output: the names that `_find` returns.

    Raises:
        UnclearError: the linears' widths fit no number of heads.
    """
    q_width, k_width, v_width = (int(getattr(module.get_submodule(name), "out_features")) for name in names)  # noqa: B009
    o_width = int(getattr(module.get_submodule(output), "in_features"))  # noqa: B009
    d = _head_width(module.get_submodule(core), q_width)
    groups = k_width // d
    if k_width % d or v_width % groups:
        raise UnclearError(f"keys of width {k_width} and values of width {v_width} are not heads of width {d}")
    e = v_width // groups
    heads = o_width // e
    gated = q_width == 2 * heads * d
    if o_width % e or heads % groups or (q_width != heads * d and not gated):
        raise UnclearError(f"queries, values and output are {q_width}, {v_width} and {o_width} wide: no heads fit")
    sizes = {"h": groups, "g": heads // groups, "d": d, "e": e, "two": 2}
    return sizes, ("(h g two d)",) if gated else ("(h g d)",)


def _head_width(core: nn.Module, width: int) -> int:
    """The width of a head as an attribute of the core gives it, or else `width` divided by the core's number of heads.

    Args:
        width: that of the queries of all heads.

    Raises:
        UnclearError: neither is known.
    """
    d, heads = head_width(core), head_count(core)
    if d is None and heads and width % heads == 0:
        return width // heads
    if d is None:
        raise UnclearError("no attribute gives the width of a head")
    return d
