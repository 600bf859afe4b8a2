"""transformers' attention with separate linears for queries, keys, values and output.

Recognised by the names of its submodules, and accepted only if its code explains every parameter and every number
in it; anything else is refused with the reason. Heads may be grouped, queries gated, heads normalised and
given sinks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from mha.families.description import Family
from mha.families.registry import register_convention
from mha.families.source import Reading, reading
from mha.families.without_heads import without_heads
from mha.layout import Axis, count

PROJECTIONS = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q", "k", "v"),
    ("q_lin", "k_lin", "v_lin"),
    ("linear_q", "linear_k", "linear_v"),
    ("Wq", "Wk", "Wv"),
    ("query_proj", "key_proj", "value_proj"),
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
)
CORES = ("self", "attention", "attn")
WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim", "dim_head", "head_size", "dim_per_head")
COUNTS = {
    "num_heads": "h g",
    "num_attention_heads": "h g",
    "num_attn_heads": "h g",
    "n_heads": "h g",
    "n_head": "h g",
    "num_key_value_heads": "h",
    "num_kv_heads": "h",
    "num_key_value_groups": "g",
    "all_head_size": "h g d",
    "inner_dim": "h g d",
}
MAYBE_COUNTS = {
    "embed_dim": "h g d",
    "hidden_size": "h g d",
    "dim": "h g d",
    "d_model": "h g d",
    "internal_dim": "h g d",
}
GATES = ("gate_proj", "g_proj")


@dataclass(frozen=True)
class _Found:
    """Where the parts are: dotted names below the module."""

    core: str
    query: str
    key: str
    value: str
    output: str

    @property
    def prefix(self) -> str:
        return f"{self.core}." if self.core else ""


class UnclearError(Exception):
    """The module has these projections, but something about it is not understood."""


@register_convention
def separate_projections(module: nn.Module) -> Family | str | None:
    """The module's description, a reason why it is refused, or None if it is something else."""
    if not any(base.__module__.startswith("transformers.") for base in type(module).__mro__):
        return None
    found = _find(module)
    if found is None:
        return None
    try:
        return _describe(module, found)
    except UnclearError as reason:
        return str(reason)


def _find(module: nn.Module) -> _Found | None:
    children = dict(module.named_children())
    names = _projection_names(children)
    if names:
        output = next((name for name in OUTPUTS if isinstance(children.get(name), nn.Linear)), None)
        return _Found("", *names, output) if output else None
    outputs = dict(children["output"].named_children()) if "output" in children else {}
    for core in CORES:
        names = _projection_names(dict(children[core].named_children())) if core in children else None
        if names and isinstance(outputs.get("dense"), nn.Linear):
            query, key, value = (f"{core}.{name}" for name in names)
            return _Found(core, query, key, value, "output.dense")
    return None


def _projection_names(children: Mapping[str, nn.Module]) -> tuple[str, str, str] | None:
    for names in PROJECTIONS:
        if all(isinstance(children.get(name), nn.Linear) for name in names):
            return names
    return None


def _describe(module: nn.Module, found: _Found) -> Family:
    core = module.get_submodule(found.core)
    code = reading(type(core))
    if code is None:
        raise UnclearError(f"the source of {type(core).__name__} can't be read")
    sizes, gated = _sizes(module, core, found)
    query: Axis = ("(h g two d)",) if gated else ("(h g d)",)
    rows: dict[str, Axis] = {found.query: query, found.key: ("(h d)",), found.value: ("(h e)",)}
    tensors: dict[str, dict[int, Axis]] = {}
    _explain_parameters(core, found, sizes, rows, tensors)
    return Family(
        name=f"{found.query.rpartition('.')[2]}/{found.output}",
        matches=lambda _: True,
        sizes=lambda _: sizes,
        rows=rows,
        columns={found.output: ("(h g e)",)},
        output=found.output,
        tensors=tensors,
        counts={found.prefix + name: letters for name, letters in _counts(core, sizes, code).items()},
        config={name: COUNTS[name] for name in _config_counts(core, sizes, code)},
        core=found.core,
        without_heads=without_heads(type(core), None if found.core else found.output),
    )


def _sizes(module: nn.Module, core: nn.Module, found: _Found) -> tuple[dict[str, int], bool]:
    query, key, value, output = (
        module.get_submodule(name) for name in (found.query, found.key, found.value, found.output)
    )
    widths = {getattr(core, name) for name in WIDTHS if isinstance(getattr(core, name, None), int)}
    if len(widths) != 1:
        raise UnclearError(f"the width of a head is not clear: {sorted(widths) or 'no attribute gives it'}")
    (d,) = widths
    q_width, k_width, v_width, o_width = (
        query.out_features,
        key.out_features,
        value.out_features,
        output.in_features,
    )
    if k_width == 0:
        per_group = getattr(core, "num_key_value_groups", 1)
        return {"h": 0, "g": per_group, "d": d, "e": getattr(core, "v_head_dim", d), "two": 2}, False
    if k_width % d or q_width % d:
        raise UnclearError(f"queries of width {q_width} and keys of width {k_width} are not heads of width {d}")
    groups = k_width // d
    if v_width % groups:
        raise UnclearError(f"values of width {v_width} do not divide into {groups} heads")
    e = v_width // groups
    heads = o_width // e
    gated = q_width == 2 * heads * d
    if o_width % e or (q_width != heads * d and not gated) or heads % groups:
        raise UnclearError(
            f"queries, values and output are {q_width}, {v_width} and {o_width} wide: no number of heads fits"
        )
    return {"h": groups, "g": heads // groups, "d": d, "e": e, "two": 2}, gated


def _counts(core: nn.Module, sizes: Mapping[str, int], code: Reading) -> dict[str, str]:
    """Attributes to keep in step; every number that might be a count must be known to be one, or not."""
    counts = {}
    for name, letters in COUNTS.items():
        value = vars(core).get(name)
        if not isinstance(value, int):
            continue
        if value == count(letters, sizes):
            counts[name] = letters
        elif name in code.attributes:
            raise UnclearError(f"{name} is {value}, but the weights say {count(letters, sizes)}")
    for name, letters in MAYBE_COUNTS.items():
        value = vars(core).get(name)
        if isinstance(value, int) and name in code.attributes and value == count(letters, sizes):
            if name not in code.shaping:
                raise UnclearError(f"its code reads {name}, which may be the width of all heads or of the model")
            counts[name] = letters
    return counts


def _config_counts(core: nn.Module, sizes: Mapping[str, int], code: Reading) -> list[str]:
    names = [name for name in COUNTS if name in code.config]
    for name in names:
        value = getattr(getattr(core, "config", None), name, None)
        if value != count(COUNTS[name], sizes):
            raise UnclearError(
                f"its code reads config.{name}, which is {value}; the weights say {count(COUNTS[name], sizes)}"
            )
    return names


def _explain_parameters(
    core: nn.Module,
    found: _Found,
    sizes: Mapping[str, int],
    rows: dict[str, Axis],
    tensors: dict[str, dict[int, Axis]],
) -> None:
    """Add what else holds heads; refuse what is not understood."""
    known = {name.removeprefix(found.prefix) for name in (found.query, found.key, found.value, found.output)}
    heads, width, inner = count("h g", sizes), sizes["d"], count("h g e", sizes)
    for name, child in core.named_children():
        shapes = [tuple(parameter.shape) for parameter in child.parameters()]
        if name in known or all(shape in ((width,), (sizes["e"],), (1,), ()) for shape in shapes):
            continue  # a projection; no parameters, or a norm of one head's width
        if name in GATES and isinstance(child, nn.Linear) and child.out_features in (heads, inner):
            rows[found.prefix + name] = ("(h g)",) if child.out_features == heads else ("(h g e)",)
        else:
            raise UnclearError(f"{type(core).__name__}.{name} ({type(child).__name__}) is not understood")
    for name, parameter in core.named_parameters(recurse=False):
        shape = tuple(parameter.shape)
        if name == "sinks" and shape == (heads,):
            tensors[found.prefix + name] = {0: ("(h g)",)}
        elif shape not in ((width,), (1,), ()):
            raise UnclearError(f"{type(core).__name__}.{name} of shape {shape} is not understood")
