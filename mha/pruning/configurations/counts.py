"""How many heads there are, as far as a configuration can say it.

Where all layers that read a configuration keep as many heads as each other, and the layer that its class would build
from new counts is the pruned one, the configuration states them: saved and loaded plainly, the model is the same.
Where it can't, it states at least how many key/value heads a cache holds, layer by layer where they differ.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mha.families import AttentionLayer
from mha.families.base.config_view import ConfigView
from mha.families.base.gathering import MASKS
from mha.families.reading.explain import COUNTS
from mha.families.reading.without_heads import CACHES
from mha.pruning.configurations.record import Dense, Fields, parts_of, put_back
from mha.runtime.generated_classes import whole

WIDTH = "head_dim"
CACHED = "num_key_value_heads"
PER_LAYER = "per_layer_config"
HEADS = {name: letters for name, letters in COUNTS.items() if letters in ("h g", "h")}
OTHERS_CODE = ("torch", "transformers.modeling_", "transformers.generation", "transformers.integrations")


def state_counts(model: nn.Module, config: Any, layers: Mapping[str, AttentionLayer]) -> Dense:
    """Write the layers' present counts of heads into the configuration, as far as it can state them truthfully.

    Args:
        model: the pruned transformers model.
        config: its configuration, with the counts before pruning; it is changed in place.
        layers: the model's attention layers, by name.

    Returns:
        Dotted name of a configuration inside `config`, "" for itself -> field that was changed -> its value before.
    """
    dense = {}
    for path, part in parts_of(config):
        reading = [layer for layer in layers.values() if _configuration(layer) is part]
        if any(layer.num_heads < layer.lineage.total_heads for layer in reading):
            dense[path] = _stated(model, part, reading, _read_elsewhere(model, layers))
    return {path: fields for path, fields in dense.items() if fields}


def _configuration(layer: AttentionLayer) -> Any:
    """The configuration that the layer reads; None where it holds none."""
    held = vars(layer.core).get("config")
    return held.whole if isinstance(held, ConfigView) else held


def _stated(model: Any, config: Any, layers: Sequence[AttentionLayer], elsewhere: frozenset[str]) -> Fields:
    """Make one configuration state its layers' counts, or else only those of its cache, or nothing.

    The counts are stated only if all of the layers are alike and the layers' classes build just such layers from them.

    Args:
        config: the configuration, or one inside another; it is changed in place.
        layers: the layers that read it.
        elsewhere: fields that code outside the layers reads too; they are not changed.

    Returns:
        Field that was changed -> its value before; {} for none.
    """
    if getattr(config, "is_heterogeneous", False):  # it has counts of its own for each layer
        return {}
    alike = len({(layer.num_heads, layer.num_kv_heads, layer.head_dim) for layer in layers}) == 1
    fields = _all_fields(config, layers[0])
    if alike and layers[0].num_heads and fields.keys().isdisjoint(elsewhere):
        before = _replaced(config, fields)
        if before and all(_is_built_from(config, layer) for layer in layers):
            return before
        put_back(config, before)
    generates = hasattr(config, CACHED) or model.can_generate()
    if not generates or CACHED in elsewhere or not all(_fits_cache(config, layer) for layer in layers):
        return {}
    return _replaced(config, _cache_fields(config, layers))


def _all_fields(config: Any, layer: AttentionLayer) -> Fields:
    """Field of the configuration that counts heads or groups -> the number of them that the layer has now.

    Fields count if they say how many the layer was made with. The width of a head, "head_dim", is among them where the
    configuration does not state it, but leaves it to be computed of counts.
    """
    present, made = {"h g": layer.num_heads, "h": layer.num_kv_heads}, layer.lineage
    total = {"h g": made.total_heads, "h": made.total_groups}
    names = {getattr(config, "attribute_map", {}).get(name, name): letters for name, letters in HEADS.items()}
    counts = {name: present[of] for name, of in names.items() if getattr(config, name, None) == total[of]}
    derived = not getattr(config, WIDTH, None) and _quotient(config) == layer.head_dim
    return counts | ({WIDTH: layer.head_dim} if derived else {})


def _quotient(config: Any) -> int | None:
    """The width of a head as the model's width divided by the number of heads; None where these are not stated."""
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None


def _cache_fields(config: Any, layers: Sequence[AttentionLayer]) -> Fields:
    """Field -> value, to say how many key/value heads a cache has for each layer; {} if that can't be said.

    A layer that keeps no head counts as one with a single head, so that its slot in the cache exists.
    """
    slots = {vars(layer.core).get("layer_idx"): max(layer.num_kv_heads, 1) for layer in layers}
    if len(set(slots.values())) == 1:
        return {CACHED: slots.popitem()[1]}
    places = range(getattr(config, "num_hidden_layers", 0))
    every = len(slots) == len(layers) and slots.keys() <= set(places)
    if not every or not hasattr(type(config), PER_LAYER) or (len(slots) < len(places) and not hasattr(config, CACHED)):
        return {}
    return {PER_LAYER: {place: {CACHED: heads} for place, heads in slots.items()}}


def _fits_cache(config: Any, layer: AttentionLayer) -> bool:
    """Whether a cache made from the configuration would fit the layer, given its number of key/value heads.

    It does where the layer's forward takes a key/value cache, and the configuration says the true width of a head and
    is not that of an encoder with a decoder.
    """
    cached = not frozenset(CACHES).isdisjoint(inspect.signature(whole(layer.core).forward).parameters)
    width = getattr(config, WIDTH, None) or _quotient(config)
    return cached and width == layer.head_dim and not config.is_encoder_decoder


def _replaced(config: Any, fields: Fields) -> Fields:
    """Set the fields and return their values before; if the configuration refuses them, set nothing and return {}."""
    before = {name: None if name == PER_LAYER else getattr(config, name, None) for name in fields}
    try:
        for name, value in fields.items():
            setattr(config, name, value)
        if hasattr(config, "validate"):
            config.validate()  # as when it is saved
    except Exception:  # whatever a class may raise about values that it can't have
        put_back(config, before)
        return {}
    return before


def _is_built_from(config: Any, layer: AttentionLayer) -> bool:
    """Whether the class of the layer makes a module with the layer's shapes and settings from the configuration.

    False also for a core inside the layer, for features selected from a submodule that stays whole, and for arguments
    of forward, other than masks, with a part for each head.
    """
    family = layer.description
    if family.core or family.selected or not family.per_head.keys() <= set(MASKS):
        return False
    made = _made(layer.core, config)
    return made is not None and _shapes(made) == _shapes(layer.core) and _settings(made) == _settings(layer.core)


def _made(core: nn.Module, config: Any) -> nn.Module | None:
    """A module of the core's class before pruning, made from the configuration on the meta device; None if that fails.

    Arguments of the constructor that the core has attributes of, such as `layer_idx`, are given as those are.
    """
    kind, arguments = whole(core), {"config": config}
    names = inspect.signature(kind.__init__).parameters.keys() - {"self", "config", *COUNTS}
    arguments |= {name: vars(core)[name] for name in names if name in vars(core)}
    try:
        with torch.device("meta"):
            made: nn.Module = kind(**arguments)
    except Exception:  # a class that is made otherwise, or refuses these counts
        return None
    return made


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Name of a parameter or buffer, also of submodules -> its shape."""
    return {name: tensor.shape for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def _settings(module: nn.Module) -> dict[str, Any]:
    """Attribute of the module, or of a submodule ("name.attribute") -> its value.

    Only numbers, strings, truth values and None are among them; private attributes and `training` are not.
    """
    kinds = (bool, int, float, str, type(None))
    return {
        f"{name}.{setting}": value
        for name, inner in module.named_modules()
        for setting, value in vars(inner).items()
        if isinstance(value, kinds) and setting != "training" and not setting.startswith("_")
    }


def _read_elsewhere(model: nn.Module, layers: Mapping[str, AttentionLayer]) -> frozenset[str]:
    """The fields in `HEADS` that the classes of the model's modules outside the layers read off a configuration."""
    inside = {id(module) for layer in layers.values() for module in layer.module.modules()}
    kinds: set[Any] = {type(module) for module in model.modules() if id(module) not in inside}
    return frozenset(name for kind in kinds for name in _counts_read_by(kind))


@functools.cache
def _counts_read_by(kind: Any) -> frozenset[str]:
    """The fields in `HEADS` that the class's code reads off a configuration; all of them where there is no source.

    Bases count too, but not those of torch and the general ones of transformers (`OTHERS_CODE`).
    """
    own = [base for base in kind.__mro__ if base is not object and not base.__module__.startswith(OTHERS_CODE)]
    try:
        trees = [ast.parse(textwrap.dedent(inspect.getsource(base))) for base in own]
    except (OSError, TypeError, SyntaxError):
        return frozenset(HEADS)
    return frozenset(name for tree in trees for name in _names_of_counts(tree))


def _names_of_counts(node: ast.AST) -> Iterator[str]:
    """Yield the fields in `HEADS` that the code under the node reads off a configuration or names in a string.

    Not so where it reads "head_dim" with a default, `getattr(config, "head_dim", …)`.
    """
    match node:
        case ast.Attribute(value=owner, attr=name) if name in HEADS and ast.unparse(owner).endswith("config"):
            yield name
        case ast.Constant(value=str(name)) if name in HEADS:
            yield name
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), _]) if name == WIDTH:
            return  # what it is where the configuration does not say it
        case ast.BoolOp(op=ast.Or(), values=[ast.Call(args=[_, ast.Constant(value=str(name)), *_]), *_]) if (
            name == WIDTH
        ):
            return
    for child in ast.iter_child_nodes(node):
        yield from _names_of_counts(child)
