"""Parameters and submodules that layers hold together, with each other or with the rest of the model.

Layers that hold the same weight can only lose the same heads of it. What is also used outside of attention can lose
none.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from mha.families.base.description import AttentionLayer, Place, parameter_at, part_of


def shared_with_others(model: nn.Module, layers: Mapping[str, AttentionLayer]) -> dict[str, str]:
    """Layer -> why it is refused, for layers of which a part that holds heads is also used outside of attention."""
    sliced = {name: sliced_parts(layer) for name, layer in layers.items()}
    refused = {}
    for name, parts in sharing(model, layers).items():
        for part, places in parts.items():
            if elsewhere := [place for place in places if place[0] is None or place[1] not in sliced[place[0]]]:
                refused[name] = _why(part, *elsewhere[0])
    return refused


def sharing(model: nn.Module, layers: Mapping[str, AttentionLayer]) -> dict[str, dict[str, tuple[Place, ...]]]:
    """Layer -> name of a part of it that holds heads -> the other places where the model holds that same object.

    A place is (layer, name below it), or (None, name below the model) outside of layers. Parts, and layers, that share
    nothing are left out.
    """
    places = _places(model, layers)
    shared = {
        name: {
            part: tuple(place for place in places[id(held)] if place != (name, part)) for part, held in parts.items()
        }
        for name, parts in ((name, sliced_parts(layer)) for name, layer in layers.items())
    }
    shared = {name: {part: others for part, others in parts.items() if others} for name, parts in shared.items()}
    return {name: parts for name, parts in shared.items() if parts}


def sliced_parts(layer: AttentionLayer) -> dict[str, Tensor | nn.Module]:
    """The parts of a layer that lose something when heads leave, by their names relative to it.

    They are parameters, buffers, and submodules whose output is selected from.
    """
    family = layer.description
    names = [*(f"{linear}.{name}" for linear in family.rows for name in ("weight", "bias")), *family.tensors]
    names += [f"{linear}.weight" for linear in family.columns]
    tensors = {name: _tensor(layer, name) for name in names}
    modules = {name: part_of(layer.module, name, family) for name in family.selected}
    return {name: part for name, part in {**tensors, **modules}.items() if part is not None}


def _tensor(layer: AttentionLayer, name: str) -> Tensor | None:
    """The layer's parameter or buffer of that dotted name; None where it has none of that name.

    Raises:
        MhaError: the submodule that should hold it does not exist.
    """
    owner, _, attribute = name.rpartition(".")
    holder = part_of(layer.module, owner, layer.description)
    return None if holder is None else parameter_at(holder, attribute)


def _places(model: nn.Module, layers: Mapping[str, AttentionLayer]) -> dict[int, list[Place]]:
    """The id of each module, parameter or buffer of the model -> the places where it is held, each place once.

    A layer that has several names is one place.
    """
    by_id: dict[int, dict[Place, None]] = {}
    for place, held in _held(model, {id(layer.module): name for name, layer in layers.items()}):
        by_id.setdefault(id(held), {})[place] = None
    return {key: list(places) for key, places in by_id.items()}


def _held(model: nn.Module, layers: Mapping[int, str]) -> Iterator[tuple[Place, object]]:
    """Every module, parameter and buffer of the model with its place, as often as it has a name.

    Args:
        layers: id of a layer's module -> its name.
    """
    of_module: dict[str, Place] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        parent, _, child = path.rpartition(".")
        layer, name = of_module[parent] if path else (None, "")
        layer, name = (layers[id(module)], "") if id(module) in layers else (layer, f"{name}.{child}".strip("."))
        of_module[path] = layer, name
        yield (layer, name), module
        for attribute, held in (*module._parameters.items(), *module._buffers.items()):
            if held is not None:
                yield (layer, f"{name}.{attribute}".strip(".")), held


def _why(part: str, layer: str | None, name: str) -> str:
    """The reason why a layer is refused: its `part` is also held as `name`, in another layer or (None) in none."""
    other = f"{layer}.{name}" if layer else name
    return (
        f"{part} is shared with {other}, of which it is not known that it holds the same heads: what leaves here would "
        "leave there; give each a copy of its own before pruning"
    )
