"""Describes a module by the projections that a convention has recognised in it, or says why it is refused.

Every parameter of the module and every number that its code uses as a count must be explained; a module that holds
anything else is refused, never guessed at.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from mha.families.base.description import Family
from mha.families.reading.after_output import after_output
from mha.families.reading.attention_weights import weights_of
from mha.families.reading.inputs import explain_inputs
from mha.families.reading.own_parameters import explain_own
from mha.families.reading.rewrite_width import with_free_width
from mha.families.reading.source import Reading, UnclearError, reading, text
from mha.families.reading.without_heads import Returned, without_heads
from mha.runtime.generated_classes import whole
from mha.values.layout import Axis, count

T = TypeVar("T")

WIDTHS = (
    "head_dim",
    "attention_head_size",
    "key_value_proj_dim",
    "dim_head",
    "head_size",
    "dim_per_head",
    "qk_channels_per_head",
)
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
    "num_kv_groups": "g",
    "all_head_size": "h g d",
    "attn_dim": "h g e",
    "inner_dim": "h g d",
    "q_dim": "h g d",
    "kv_dim": "h d",
}
MAYBE_COUNTS = (
    "embed_dim",
    "hidden_size",
    "dim",
    "d_model",
    "internal_dim",
    "split_size",
    "hidden_size_output",
    "dim_out",
)
SEQUENCE_FIRST = "tgt_len, bsz, embed_dim = query.size()"
SEVERAL_CONTEXTS = frozenset({"entity_hidden_states"})
# Attribute of a module whose code mixes heads with each other, so that leaving one out changes the others -> how.
COUPLING = {
    "autocorrelation_factor": "it averages correlations over heads",
    "lambda_q1": "heads are paired",
    "conv_kernel_layer": "its convolution kernels are made of all heads' queries",
    "dt_proj": "its mask is made of all heads' values",
    "iterative_inv": "its inverse is scaled by a maximum over heads",
    "head_logits_proj": "its heads talk to each other",
    "attn_sub_norm": "a norm before the output projection reads all of them",
    "inner_attn_ln": "a norm before the output projection reads all of them",
    "fsmn": "a branch of its own reads all heads' values",
}
ELSEWHERE = {"approx_mode": "computes attention in a CUDA kernel, and zeros where there is none"}
# Division by the number of heads, but for that of what was multiplied by it: examples times heads, the width of all.
DERIVED_WIDTH = re.compile(
    r"(?<!batch_size_and_num_heads )(?<!x\.size\(-1\) )(?<!query_layer\.size\(0\) )(?<!self\.embed_dim )"
    r"// self\.(num_heads|num_attention_heads|n_heads?)\b"
)


@dataclass(frozen=True)
class Projections:
    """The projections that a convention has recognised in a module; names are relative to the module.

    Attributes:
        name: that of the `Family` that `describe` makes.
        core: the submodule that computes attention, "" for the module itself.
        rows: linear -> axis of its output features.
        output: the linear that reads the heads' context.
        sizes: letter in the axes' patterns -> its size, as "d" -> the width of a head.
        whole: submodules that hold parameters for all heads together, and stay as they are.
        inputs: arguments of the core's forward of which the convention knows whether they differ from head to head.
        selected: submodule -> axis of its output features; it stays whole, and features are selected from its output.
        unread: attributes of the core that the class which the convention puts in place of the core's does not read.
        counts: further attributes of the core that count heads -> the letters whose product the count is.
        widths_freed: whether the convention's replacement gives no tensor the width of an input, or one derived from
            it.
    """

    name: str
    core: str
    rows: Mapping[str, Axis]
    output: str
    sizes: Mapping[str, int]
    whole: tuple[str, ...] = ()
    inputs: frozenset[str] = frozenset()
    selected: Mapping[str, Axis] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    counts: Mapping[str, str] = field(default_factory=dict)
    widths_freed: bool = False

    @property
    def prefix(self) -> str:
        """What makes a name relative to the core one relative to the module: "attn."; "" if the core is the module."""
        return f"{self.core}." if self.core else ""

    @property
    def known(self) -> frozenset[str]:
        """The names of the core's children that are, or hold, one of `rows`, `output` and `whole`."""
        names = (*self.rows, self.output, *self.whole)
        return frozenset(name.removeprefix(self.prefix).partition(".")[0] for name in names)

    def inside(self, named: Mapping[str, T]) -> dict[str, T]:
        """The same values, keyed by names relative to the module instead of names relative to the core."""
        return {self.prefix + name: value for name, value in named.items()}


def describe(
    module: nn.Module,
    projections: Projections,
    *,
    replacement: type[nn.Module] | None = None,
    empty: type[nn.Module] | None = None,
) -> Family:
    """The description, a `Family` for this module alone, of a module in which a convention recognised projections.

    Args:
        replacement: the class that the core gets when heads are cut; by default one is derived from its own forward
            where that gives a tensor the width of an input, and otherwise the core keeps its class.
        empty: the class that the core gets when no head is left; by default it is derived from the core's.

    Raises:
        UnclearError: the core's source can't be read, couples its heads, computes attention outside of torch, gives the
            context the width of an input, or derives a head's width from the number of heads; or an argument of
            forward, a parameter, or an attribute or field of the configuration that may count heads is not understood.
    """
    core = module.get_submodule(projections.core)
    kind, code = whole(core), reading(core)
    if code is None:
        raise UnclearError(f"the source of {kind.__name__} can't be read")
    if coupled := [why for name, why in COUPLING.items() if name in code.attributes]:
        raise UnclearError(f"{kind.__name__} couples its heads: {coupled[0]}")
    if elsewhere := [why for name, why in ELSEWHERE.items() if name in code.attributes]:
        raise UnclearError(f"{kind.__name__} {elsewhere[0]}")
    if code.input_width and not projections.widths_freed:
        raise UnclearError(f"{kind.__name__} gives its heads' context the width of an input")
    if DERIVED_WIDTH.search(text(core)) and not projections.widths_freed:
        raise UnclearError(f"{kind.__name__} derives the width of a head from their number")
    per_head = explain_inputs(core, projections.inputs)
    own = explain_own(core, projections.known, projections.sizes)
    return Family(
        name=projections.name,
        matches=lambda _: True,
        sizes=lambda _: projections.sizes,
        rows={**projections.rows, **projections.inside(own.rows)},
        columns={projections.output: ("(h g e)",)},
        output=projections.output,
        tensors=projections.inside(own.tensors),
        counts=projections.inside({**_counts(core, projections, code), **projections.counts}),
        config={name: COUNTS[name] for name in _config_counts(core, projections.sizes, code)},
        core=projections.core,
        replacement=replacement or (with_free_width(kind) if code.freed else None),
        per_head=per_head,
        selected=projections.selected,
        weights=weights.place if (weights := weights_of(core)) else None,
        without_heads=empty or _without_heads(kind, core, projections, code),
    )


def _without_heads(kind: Any, core: nn.Module, projections: Projections, code: Reading) -> type[nn.Module] | None:
    """The class that the core gets when its layer keeps no head; None where the core's own code works without heads.

    It does in modules that return the contexts of several sequences.

    Args:
        kind: the core's class, to derive from.
        code: what `reading` says of the core.
    """
    if SEVERAL_CONTEXTS & code.variables:
        return None
    output = None if projections.core else projections.output
    returned = Returned(
        output,
        code.returned,
        after_output(core),
        weights_of(core),
        as_list=code.as_list,
        sequence_first=SEQUENCE_FIRST in text(core),
    )
    return without_heads(kind, returned)


def head_width(core: nn.Module) -> int | None:
    """The width of a head as an integer attribute of the module named in `WIDTHS` gives it; None where none does.

    Of two attributes, one of which is the other times the number of heads, the smaller counts.

    Raises:
        UnclearError: attributes differ otherwise.
    """
    widths = {vars(core)[name] for name in WIDTHS if isinstance(vars(core).get(name), int)}
    if len(widths) == 2 and max(widths) == min(widths) * (head_count(core) or 0):
        return min(widths)  # the other is that of all heads
    if len(widths) > 1:
        raise UnclearError(f"the width of a head is not clear: {sorted(widths)}")
    return widths.pop() if widths else None


def head_count(core: nn.Module) -> int | None:
    """The number of query heads, by the first attribute of the module that `COUNTS` lists as such; None without one."""
    return next((vars(core)[name] for name in COUNTS if COUNTS[name] == "h g" and name in vars(core)), None)


def _counts(core: nn.Module, projections: Projections, code: Reading) -> dict[str, str]:
    """Attribute of the core that counts heads, or their features -> the letters whose product it is, as "h g d".

    Raises:
        UnclearError: an attribute is not what `projections.sizes`, read off the weights, make it; or one that the code
            reads may be the width of all heads, or just as well that of the model.
    """
    counts, sizes = {}, projections.sizes
    for name, letters in COUNTS.items():
        value = vars(core).get(name)
        if isinstance(value, int) and value == count(letters, sizes):
            counts[name] = letters
        elif isinstance(value, int):
            raise UnclearError(f"{name} is {value}, but the weights say {count(letters, sizes)}")
    for name in WIDTHS:
        value = vars(core).get(name)
        if isinstance(value, int) and value != sizes["d"] and value == count("h g d", sizes):
            counts[name] = "h g d"
    for name in MAYBE_COUNTS:
        value = vars(core).get(name)
        if isinstance(value, int) and name in code.attributes and value == count("h g e", sizes):
            if name in code.of_input | projections.unread:
                continue
            if name not in code.shaping | code.divided:
                raise UnclearError(f"its code reads {name}, which may be the width of all heads or of the model")
            counts[name] = "h g e"
    return counts


def _config_counts(core: nn.Module, sizes: Mapping[str, int], code: Reading) -> list[str]:
    """The names of the configuration's fields that count heads (`COUNTS`) and that the core's code reads.

    Raises:
        UnclearError: a field's value is not the count that `sizes`, read off the weights, give.
    """
    names = [name for name in COUNTS if name in code.config]
    for name in names:
        value, expected = getattr(getattr(core, "config", None), name, None), count(COUNTS[name], sizes)
        if value != expected:
            raise UnclearError(f"its code reads config.{name}, which is {value}; the weights say {expected}")
    return names


def is_from_transformers(module: nn.Module) -> bool:
    """Whether transformers defines the module's class or a base of it; found out without importing it."""
    return is_from("transformers", module)


def is_from(library: str, module: nn.Module) -> bool:
    """Whether the library defines the module's class or a base of it; found out without importing it."""
    return any(base.__module__.startswith(f"{library}.") for base in type(module).__mro__)
