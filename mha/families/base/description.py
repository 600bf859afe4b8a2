"""What a family of attention modules looks like, as data, and the layers of such modules in a model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from mha.families.base.gathering import MASKS, gathering
from mha.runtime.intercept import why_stuck
from mha.values.errors import MhaError
from mha.values.layout import Axis
from mha.values.plan import Lineage, lineage_of

Role = Literal["self", "cross"]
Place = tuple[str | None, str]  # a layer and a name below it, or None and a name below the model


def _no_role(module: nn.Module) -> Role | None:  # noqa: ARG001
    """The default of `Family.role`: None, since it can't be told what a module of the family attends to."""
    return None


@dataclass(frozen=True, kw_only=True)
class Family:
    """A description of an attention module, enough to find, mask and slice it.

    Attributes:
        name: how the family is called in listings and errors.
        matches: whether a module belongs to it.
        sizes: returns the size of each letter in the axes' patterns: h = key/value groups, g = query heads per group, d
            = head width, and whatever else they name.
        rows: linear submodule -> axis of its OUTPUT features.
        columns: linear submodule -> axis of its INPUT features.
        output: the submodule whose input is the heads' context vectors; it stands in `columns`.
        tensors: parameter, or buffer, -> dimension -> axis, for what no linear submodule holds. Like rows
            and columns, entries that a module does not have (None) are passed over.
        replacement: a subclass of the core's class which works with any number of heads and calls `output` as a
            module; a module that is masked or sliced becomes one. None where the class itself does.
        per_head: input of the core's forward that arrives for all original heads -> the dimension that counts heads
            (or examples times heads), from the back: -3 for what is added to scores (b, h, q, k).
        selected: submodule -> axis of its OUTPUT features, for one that needs all heads to compute those of any, as a
            norm over their full width: it stays whole, and what it returns is selected from.
        weights: the place of attention weights, (b, h, q, k), in the tuple that the core's forward returns; None where
            it returns none.
        core: the submodule that computes attention, if it is not the module itself.
        config: field of the core's `config` that its forward reads -> the letters whose product it counts.
        without_heads: a subclass of the core's class, for a layer that keeps no head; None where the class
            works with none.
        counts: attribute of the module, or of a submodule -> the letters whose product it counts: "h g"
            query heads, "h" key/value groups, "g" query heads per group, "h g d" width of all heads.
        role: "self" for a module that attends to its own input, "cross" for one that attends to another's, None where
            that can't be told.

    Example:
        Modules with `num_heads` heads, each `width` wide, in two linears; see `mha.register_family` for a whole one.

        >>> family = mha.Family(
        ...     name="fused",
        ...     matches=lambda module: type(module).__name__ == "FusedAttention",
        ...     sizes=lambda module: {"h": module.num_heads, "g": 1, "d": module.width},
        ...     rows={"qkv": ("(h g d)", "(h d)", "(h d)")},
        ...     columns={"out": ("(h g d)",)},
        ...     output="out",
        ...     counts={"num_heads": "h g"},
        ... )
        >>> family.matches(nn.Linear(3, 3))
        False
    """

    name: str
    matches: Callable[[nn.Module], bool]
    sizes: Callable[[nn.Module], Mapping[str, int]]
    rows: Mapping[str, Axis] = field(default_factory=dict)
    columns: Mapping[str, Axis]
    output: str
    tensors: Mapping[str, Mapping[int, Axis]] = field(default_factory=dict)
    replacement: type[nn.Module] | None = None
    per_head: Mapping[str, int] = field(default_factory=dict)
    selected: Mapping[str, Axis] = field(default_factory=dict)
    weights: int | None = None
    core: str = ""
    config: Mapping[str, str] = field(default_factory=dict)
    without_heads: type[nn.Module] | None = None
    counts: Mapping[str, str] = field(default_factory=dict)
    role: Callable[[nn.Module], Role | None] = _no_role


@dataclass(frozen=True)
class AttentionLayer:
    """One attention module of a model, as it is now.

    Attributes:
        name: its name in `model.named_modules()`; "" is the model itself.
        module: the attention module.
        description: what its family says of modules like it.
        sizes: the size of each letter in the axes' patterns now.
        lineage: which of its original heads, and groups, it still has.
        role: "self" if it attends to its own input, "cross" if to another's; None where that can't be told.
        shares: name of a part of the module that holds heads -> where else in the model that object is held, as
            (layer, name below it): by another layer, or under another name in this one. These can only lose the same
            heads of it.

    Example:
        >>> model = nn.ModuleDict({"encoder": mha.MultiHeadAttention.square(8, 4, num_kv_heads=2)})
        >>> pruned = mha.prune(model, mha.HeadPlan({"encoder": (0, 3)}))
        >>> layer = mha.find_attention(pruned)["encoder"]
        >>> layer.heads, layer.num_heads, layer.num_kv_heads, layer.head_dim, layer.family
        ((0, 3), 2, 2, 2, 'mha.MultiHeadAttention')
    """

    name: str
    module: nn.Module = field(repr=False, compare=False)
    description: Family = field(repr=False)
    sizes: Mapping[str, int]
    lineage: Lineage
    role: Role | None
    shares: Mapping[str, tuple[Place, ...]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, name: str, module: nn.Module, description: Family) -> "AttentionLayer":
        """The module as an attention layer, with the sizes and the lineage that it has now."""
        sizes = description.sizes(module)
        heads, groups = sizes["h"] * sizes["g"], sizes["h"]
        whole = Lineage(tuple(range(heads)), heads, tuple(range(groups)), groups)
        lineage = lineage_of(module) or whole
        return cls(name, module, description, sizes, lineage, description.role(module))

    @property
    def family(self) -> str:
        """The name of its family."""
        return self.description.name

    @property
    def heads(self) -> tuple[int, ...]:
        """Original numbers of the query heads still present, in the order of their positions."""
        return self.lineage.heads

    @property
    def groups(self) -> tuple[int, ...]:
        """Original numbers of the key/value groups still present, in the order of their positions."""
        return self.lineage.groups

    @property
    def num_heads(self) -> int:
        """How many query heads it has now."""
        return len(self.lineage.heads)

    @property
    def num_kv_heads(self) -> int:
        """How many key/value groups it has now."""
        return len(self.lineage.groups)

    @property
    def head_dim(self) -> int:
        """The width of a head's queries and keys."""
        return self.sizes["d"]

    @property
    def output_name(self) -> str:
        """The name of its output projection in the model."""
        return f"{self.name}.{self.description.output}" if self.name else self.description.output

    @property
    def core(self) -> nn.Module:
        """The part of the module that computes attention; often the module itself."""
        return self.module.get_submodule(self.description.core)

    def class_with(self, count: int) -> type[nn.Module]:
        """The class that the core is given when it is masked or sliced so that it has `count` heads left."""
        family = self.description
        if not count and family.without_heads:
            return family.without_heads
        kind: Any = family.replacement or type(self.core)
        return gathering(kind, family.per_head) if family.per_head else kind

    def why_hidden(self, kind: type[nn.Module]) -> str | None:
        """The reason, for an error's message, why the core can't be given this class; None where it can.

        It can't where a forward that is set on the instance would hide that of the class. That does no harm where the
        class only picks the parts of its heads out of masks, since a mask of all heads then fails by its shape.
        """
        family = self.description
        plain = family.replacement is None and kind is not family.without_heads and family.per_head.keys() <= {*MASKS}
        return None if plain or kind is type(self.core) else why_stuck(self.core, family.core)

    @property
    def output(self) -> nn.Module:
        """The output projection: its input is the heads' context, (..., heads x head_dim)."""
        return self.module.get_submodule(self.description.output)

    @property
    def context_axis(self) -> Axis:
        """How the heads lie along the input of the output projection."""
        return self.description.columns[self.description.output]


class AttentionMap(Mapping[str, AttentionLayer]):
    """The attention layers of a model by name, in `named_modules()` order.

    `unsupported` holds, by name, the modules that look like attention but can't be pruned, and why.

    Example:
        >>> model = nn.Sequential(mha.MultiHeadAttention.square(8, 4), nn.Linear(8, 2))
        >>> layers = mha.find_attention(model)
        >>> layers
        AttentionMap(
          '0': 4 heads (mha.MultiHeadAttention)
        )
        >>> list(layers), layers["0"].heads, layers.unsupported
        (['0'], (0, 1, 2, 3), {})
    """

    def __init__(self, layers: Mapping[str, AttentionLayer], unsupported: Mapping[str, str]) -> None:
        self._layers = dict(layers)
        self.unsupported = dict(unsupported)

    def __getitem__(self, name: str) -> AttentionLayer:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        rows = [f"  {name!r}: {layer.num_heads} heads ({layer.family})" for name, layer in self.items()]
        rows += [f"  {name!r}: unsupported, {why}" for name, why in self.unsupported.items()]
        return "\n".join(["AttentionMap(", *rows, ")"])


def part_of(module: nn.Module, name: str, family: Family) -> nn.Module | None:
    """The submodule of this dotted name, which the family's description gives; None where the module has None there.

    Raises:
        MhaError: the module has nothing of that name.
    """
    part: nn.Module | None = module
    for step in name.split(".") if name else ():
        if not hasattr(part, step):
            raise MhaError(f"family {family.name!r} names {name!r}, which a {type(module).__name__} does not have")
        part = getattr(part, step)
    return part


def parameter_at(module: nn.Module, name: str) -> Tensor | None:
    """The parameter or buffer (EVA keeps biases of keys in one) of that name below the module; None without one.

    The submodule that would hold it must be there.
    """
    owner, _, attribute = name.rpartition(".")
    holder = module.get_submodule(owner)
    return holder._parameters.get(attribute, holder._buffers.get(attribute))
