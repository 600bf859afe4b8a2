"""Two models with one key/value cache: the queries of the second also attend to the keys and values of the first.

The second model's layers append to what the layers of the first have cached, group by group. A group that leaves either
would have to leave both, and a head of the first that is masked would go on being read by the second; so both are
refused.
"""

import ast
import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from mha.families.base.description import AttentionLayer
from mha.families.base.find import register_relation
from mha.families.reading.explain import is_from_transformers
from mha.families.reading.source import text
from mha.families.reading.without_heads import CACHES
from mha.runtime.generated_classes import whole

CACHE = CACHES[0]


@register_relation
def shared_cache(model: nn.Module, layers: Mapping[str, AttentionLayer]) -> dict[str, str]:
    """Layer -> why it is refused, for layers with a key/value cache that two submodules of a transformers module share.

    The code of that module calls the second submodule with the cache that the first returned.
    """
    refused: dict[str, str] = {}
    caching = [name for name, layer in layers.items() if _caches(layer.core)]
    for name, module in model.named_modules():
        inside = [layer for layer in caching if f".{layer}".startswith(f".{name}." if name else ".")]
        if not is_from_transformers(module) or len({_child(layer, name) for layer in inside}) < 2:
            continue
        for pair in _pairs(text(module)):
            parts = " and ".join(f"{name}.{part}".removeprefix(".") for part in pair)
            why = f"{parts} share one cache: the second's heads read the keys and values of the first's"
            refused |= {layer: why for layer in inside if _child(layer, name) in pair}
    return refused


def _caches(core: nn.Module) -> bool:
    """Whether the module's forward takes a key/value cache."""
    return any(name in CACHES for name in inspect.signature(whole(core).forward).parameters)


def _child(layer: str, name: str) -> str:
    """The name of the child of module `name` that the layer lies in."""
    return layer.removeprefix(f"{name}." if name else "").partition(".")[0]


@functools.cache
def _pairs(code: str) -> tuple[tuple[str, str], ...]:
    """Pairs of names of submodules, of which the second is called with the cache that a call of the first returned.

    Args:
        code: the source of a class's methods, each of which is read by itself.
    """
    return tuple(pair for method in ast.parse(code).body for pair in _Calls.of(method).sharing())


@dataclass
class _Calls:
    """The calls of submodules in a method, and the variables that hold what they returned.

    Attributes:
        calls: (name of the submodule, the call), one for each.
        outputs: name of a variable -> the submodule whose output it holds.
        caches: name of a variable -> the submodule whose key/value cache it holds.
    """

    calls: list[tuple[str, ast.Call]] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)  # variable -> submodule whose output it is
    caches: dict[str, str] = field(default_factory=dict)  # variable -> submodule whose cache it is

    @classmethod
    def of(cls, method: ast.stmt) -> "_Calls":
        """The calls of submodules in this method, with all attributes filled in."""
        nodes = [node for node in ast.walk(method) if isinstance(node, ast.Call)]
        calls = cls([(submodule, node) for node in nodes if (submodule := _submodule(node))])
        calls.outputs |= {name: submodule for name, value in _assigned(method) if (submodule := _submodule(value))}
        calls.caches |= {name: submodule for name, value in _assigned(method) if (submodule := calls.cache_of(value))}
        return calls

    def cache_of(self, node: ast.expr) -> str | None:
        """The name of the submodule whose cache the expression stands for; None where it stands for none's."""
        match node:
            case ast.Name(id=variable):
                return self.caches.get(variable)
            case ast.Attribute(attr="past_key_values", value=ast.Name(id=variable)):
                return self.outputs.get(variable)
            case ast.Attribute(attr="past_key_values", value=called):
                return _submodule(called)
        return None

    def sharing(self) -> Iterator[tuple[str, str]]:
        """Pairs of names of submodules, of which the second is called with the cache of the first, another one."""
        for submodule, call in self.calls:
            for keyword in call.keywords:
                owner = self.cache_of(keyword.value) if keyword.arg == CACHE else None
                if owner not in (None, submodule):
                    yield str(owner), submodule


def _assigned(method: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """Each plain variable that the method assigns to, with the expression for its value; tuples are left out."""
    for node in ast.walk(method):
        match node:
            case ast.Assign(targets=[ast.Name(id=variable)], value=value):
                yield variable, value


def _submodule(node: ast.expr) -> str | None:
    """The name of the submodule that the expression calls: `encoder` in `self.encoder(…)`; None for anything else."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
            return name
    return None
