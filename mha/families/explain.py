"""From projections that a convention has recognised to a description, or the reason why not.

Every parameter of the module and every number that its code uses as a count must be explained; a module that holds
anything else is refused, never guessed at.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mha.families.description import Family
from mha.families.source import Reading, reading, text
from mha.families.without_heads import WHOLE, without_heads
from mha.layout import Axis, count

WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim", "dim_head", "head_size", "dim_per_head")
COUNTS = {
    "num_heads": "h g",
    "num_attention_heads": "h g",
    "num_attn_heads": "h g",
    "n_heads": "h g",
    "n_head": "h g",
    "num_key_value_heads": "h",
    "num_kv_heads": "h",
    "kv_heads": "h",
    "num_key_value_groups": "g",
    "all_head_size": "h g d",
    "inner_dim": "h g d",
    "q_dim": "h g d",
    "kv_dim": "h d",
}
MAYBE_COUNTS = ("embed_dim", "hidden_size", "dim", "d_model", "internal_dim", "split_size", "hidden_size_output")
GATES = ("gate_proj", "g_proj")
# What attention is given that is the same for all heads. Anything else may have a size per head, or come from a
# layer with other heads.
INPUTS = frozenset(
    (
        "self",
        "hidden_states",
        "attention_mask",
        "past_key_values",
        "past_key_value",
        "layer_past",
        "cache_position",
        "use_cache",
        "output_attentions",
        "position_ids",
        "position_embeddings",
        "rotary_pos_emb",
        "cu_seqlens",
        "max_seqlen",
        "key_value_states",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "cross_attention_states",
        "query",
        "key",
        "value",
        "queries",
        "keys",
        "values",
        "query_states",
        "key_states",
        "value_states",
        "x",
        "mask",
        "attn_mask",
        "input",
        "kv",
        "is_index_masked",
        "sequence_length",
        "kwargs",
        "args",
    )
)


# Own attributes in code that mixes heads with each other, so that leaving one out changes the others.
COUPLING = {"autocorrelation_factor": "it averages correlations over heads", "lambda_q1": "heads are paired"}
DERIVED_WIDTH = re.compile(r"// self\.(num_heads|num_attention_heads|n_heads?)\b")


class UnclearError(Exception):
    """The module looks like attention of a convention, but something about it is not understood."""


@dataclass(frozen=True)
class Projections:
    """What a convention has recognised; dotted names are below the module.

    Attributes:
        core: the submodule that computes attention, "" for the module itself.
        rows: linear -> axis of its output features.
        output: the linear that reads the heads' context.
        sizes: the axes' letters.
        whole: submodules that hold parameters for all heads together, and stay as they are.
        inputs: what it is given beside `INPUTS`, with an account of which heads it is for.
    """

    name: str
    core: str
    rows: Mapping[str, Axis]
    output: str
    sizes: Mapping[str, int]
    whole: tuple[str, ...] = ()
    inputs: frozenset[str] = frozenset()

    @property
    def prefix(self) -> str:
        return f"{self.core}." if self.core else ""


def describe(
    module: nn.Module,
    found: Projections,
    *,
    replacement: type[nn.Module] | None = None,
    empty: type[nn.Module] | None = None,
) -> Family:
    """The description of a module in which a convention has recognised these projections.

    Args:
        replacement, empty: the description's `replacement` and `without_heads`, where the convention has its own.

    Raises:
        UnclearError: something about the module is not understood.
    """
    core = module.get_submodule(found.core)
    kind: Any = getattr(type(core), WHOLE, type(core))
    code = reading(kind)
    if code is None:
        raise UnclearError(f"the source of {kind.__name__} can't be read")
    if unknown := [name for name in inspect.signature(kind.forward).parameters if name not in INPUTS | found.inputs]:
        raise UnclearError(f"{kind.__name__} is given {', '.join(unknown)}, which may differ from head to head")
    if coupled := [why for name, why in COUPLING.items() if name in code.attributes]:
        raise UnclearError(f"{kind.__name__} couples its heads: {coupled[0]}")
    if code.input_width:
        raise UnclearError(f"{kind.__name__} gives its heads' context the width of an input")
    if DERIVED_WIDTH.search(text(kind)):
        raise UnclearError(f"{kind.__name__} derives the width of a head from their number")
    rows, tensors = _explain_parameters(core, found)
    return Family(
        name=found.name,
        matches=lambda _: True,
        sizes=lambda _: found.sizes,
        rows={**found.rows, **rows},
        columns={found.output: ("(h g e)",)},
        output=found.output,
        tensors=tensors,
        counts={found.prefix + name: letters for name, letters in _counts(core, found.sizes, code).items()},
        config={name: COUNTS[name] for name in _config_counts(core, found.sizes, code)},
        core=found.core,
        replacement=replacement,
        without_heads=empty or without_heads(kind, None if found.core else found.output),
    )


def head_width(core: nn.Module) -> int | None:
    """The width of a head as the module's own attribute gives it; None where no attribute does.

    Raises:
        UnclearError: attributes contradict each other.
    """
    widths = {vars(core)[name] for name in WIDTHS if isinstance(vars(core).get(name), int)}
    if len(widths) > 1:
        raise UnclearError(f"the width of a head is not clear: {sorted(widths)}")
    return widths.pop() if widths else None


def _counts(core: nn.Module, sizes: Mapping[str, int], code: Reading) -> dict[str, str]:
    """Attributes to keep in step; a number that may be a count must be known to be one, or not."""
    counts = {}
    for name, letters in COUNTS.items():
        value = vars(core).get(name)
        if isinstance(value, int) and value == count(letters, sizes):
            counts[name] = letters
        elif isinstance(value, int) and name in code.attributes:
            raise UnclearError(f"{name} is {value}, but the weights say {count(letters, sizes)}")
    for name in MAYBE_COUNTS:
        value = vars(core).get(name)
        if isinstance(value, int) and name in code.attributes and value == count("h g e", sizes):
            if name not in code.shaping:
                raise UnclearError(f"its code reads {name}, which may be the width of all heads or of the model")
            counts[name] = "h g e"
    return counts


def _config_counts(core: nn.Module, sizes: Mapping[str, int], code: Reading) -> list[str]:
    names = [name for name in COUNTS if name in code.config]
    for name in names:
        value, expected = getattr(getattr(core, "config", None), name, None), count(COUNTS[name], sizes)
        if value != expected:
            raise UnclearError(f"its code reads config.{name}, which is {value}; the weights say {expected}")
    return names


def _explain_parameters(core: nn.Module, found: Projections) -> tuple[dict[str, Axis], dict[str, dict[int, Axis]]]:
    """What holds heads beside the projections: linears' rows, and bare parameters."""
    known = {name.removeprefix(found.prefix) for name in (*found.rows, found.output, *found.whole)}
    heads, inner = count("h g", found.sizes), count("h g e", found.sizes)
    per_head = ((found.sizes["d"],), (found.sizes["e"],), (1,), ())
    rows: dict[str, Axis] = {}
    for name, child in core.named_children():
        if name in known or all(tuple(parameter.shape) in per_head for parameter in child.parameters()):
            continue  # a projection; no parameters; or a norm over one head's width, the same for all
        if name in GATES and isinstance(child, nn.Linear) and child.out_features in (heads, inner):
            rows[found.prefix + name] = ("(h g)",) if child.out_features == heads else ("(h g e)",)
        else:
            raise UnclearError(f"{type(core).__name__}.{name} ({type(child).__name__}) is not understood")
    tensors: dict[str, dict[int, Axis]] = {}
    for name, parameter in core.named_parameters(recurse=False):
        shape = tuple(parameter.shape)
        if name == "sinks" and shape == (heads,):
            tensors[found.prefix + name] = {0: ("(h g)",)}
        elif shape not in per_head:
            raise UnclearError(f"{type(core).__name__}.{name} of shape {shape} is not understood")
    return rows, tensors


def is_from_transformers(module: nn.Module) -> bool:
    """Whether transformers defines the module's class or a base of it; found out without importing it."""
    return any(base.__module__.startswith("transformers.") for base in type(module).__mro__)
