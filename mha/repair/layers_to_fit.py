"""Which linear layers of a pruned model can be fitted to the dense model that it was pruned from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from mha.families import AttentionLayer, find_attention
from mha.families.base.linears import is_conv1d, weight_of
from mha.pruning.resolve import kept_entries
from mha.pruning.slicing import plan_of
from mha.pruning.weight_axes import LINEARS
from mha.repair.residual_stream import Goal
from mha.repair.rows import Part
from mha.values.errors import PlanError, UnsupportedModule

WIDEST = 8  # times what it reads: a wider layer spells a vocabulary, and its targets would fill the memory

Scope = Literal["attention", "stream", "all"]
Layers = Mapping[str, AttentionLayer]


def check_belong(students: Layers, teachers: Layers) -> None:
    """Refuse a student, the pruned model, that was not pruned from the teacher.

    Raises:
        PlanError: the two do not have the same layers, or the student has heads that the teacher does not have.
        UnsupportedModule: an output projection is no plain linear layer.
    """
    if not teachers or students.keys() != teachers.keys():
        only = sorted(students.keys() ^ teachers.keys())
        why = f"only one of the two has the layers {only}" if only else "neither has attention of a known family"
        raise PlanError(f"the teacher is not the model that was pruned: {why}")
    for name, student in students.items():
        _check_belong(name, student, teachers[name])


def shared_linears(teacher: nn.Module, teachers: Layers, model: nn.Module) -> list[str]:
    """The names of the linear layers, other than attention's output projections, that both models have.

    Those that share a parameter with another module of the teacher are left out.

    Args:
        teacher: the dense model.
        teachers: its attention layers, by name.
        model: the pruned model.

    Raises:
        PlanError: a linear layer outside of attention is missing in the pruned model, or has another shape there.
    """
    modules = dict(model.named_modules())
    shared = []
    for name in _other_linears(teacher, teachers):
        here, there = modules.get(name), teacher.get_submodule(name)
        alike = here is not None and is_linear(here)
        if any(layer == "" or name.startswith(f"{layer}.") for layer in teachers):
            if alike:
                shared.append(name)
        elif not alike or weight_of(modules[name]).shape != weight_of(there).shape:
            raise PlanError(f"the teacher is not the model that was pruned: {name!r} is another layer there")
        else:
            shared.append(name)
    return shared


def kept_outputs(teacher: nn.Module, model: nn.Module, names: Sequence[str]) -> dict[str, Tensor | None]:
    """Linear layer -> indices of the teacher's output features that it still has in the pruned `model`; None for all.

    Left out are layers whose weight in `model` has another shape than pruning explains, or no outputs, and those with
    over `WIDEST` times as many outputs as inputs: they put out a vocabulary.

    Args:
        names: of the layers that are asked about.
    """
    entries = kept_entries(teacher, plan_of(model))
    kept: dict[str, Tensor | None] = {}
    for name in names:
        here, there = model.get_submodule(name), teacher.get_submodule(name)
        rows = entries.get(f"{name}.weight", {}).get(1 if is_conv1d(there) else 0)
        (outputs, inputs), shape = weight_of(there).shape, weight_of(here).shape
        if shape[0] and shape == (outputs if rows is None else len(rows), inputs) and outputs <= WIDEST * inputs:
            kept[name] = rows
    return kept


def emptied(students: Layers, teachers: Layers) -> list[str]:
    """Names of the layers that keep no head in the pruned model, and have some in the dense one."""
    return [name for name, layer in students.items() if not layer.num_heads and teachers[name].num_heads]


def parts_of(
    repaired: nn.Module, teacher: nn.Module, goals: Mapping[str, Goal], method: str, scope: Scope
) -> list[Part]:
    """The layers of the pruned model that are fitted, in the order in which they run; from the first pruned one on.

    Args:
        goals: linear layer of the dense model -> its goal, in the order in which they run.
        method, scope: those of `mha.compensate`.

    Raises:
        PlanError: a linear layer outside of attention is missing in the pruned model, or has another shape there.
    """
    students, teachers = find_attention(repaired), find_attention(teacher)
    layers = by_output(students, teachers)
    own = method != "least_squares"
    others = [] if own or scope == "attention" else shared_linears(teacher, teachers, repaired)
    kept = kept_outputs(teacher, repaired, others) if scope == "all" else {}
    parts = [
        part_of(
            repaired,
            teacher,
            layers,
            name,
            replace(goal, reader=None) if own else goal,
            None if goal.reader is not None else kept.get(name),
        )
        for name, goal in goals.items()
        if name in layers or (name in others and (goal.reader is not None or name in kept))
    ]
    smaller = {teachers[name].output_name for name in students if students[name].num_heads < teachers[name].num_heads}
    first = next((place for place, part in enumerate(parts) if part.name in smaller), len(parts))
    return parts[first:]


def by_output(students: Layers, teachers: Layers) -> dict[str, AttentionLayer]:
    """The name that an output projection has in the dense model -> the attention layer of the pruned model."""
    return {teachers[name].output_name: layer for name, layer in students.items()}


def part_of(
    repaired: nn.Module, teacher: nn.Module, layers: Layers, name: str, goal: Goal, kept: Tensor | None
) -> Part:
    """A layer of the pruned model that is fitted.

    Args:
        layers: as `by_output` gives them.
        name, goal, kept: those of the `Part`.
    """
    layer = layers.get(name)
    linear = repaired.get_submodule(name) if layer is None else layer.output
    return Part(name=name, linear=linear, dense=teacher.get_submodule(name), goal=goal, layer=layer, kept=kept)


def is_linear(module: nn.Module) -> bool:
    """Whether the module is torch's plain linear or transformers' `Conv1D`, and holds its weight as a parameter."""
    return (type(module) in LINEARS or is_conv1d(module)) and module._parameters.get("weight") is not None


def _other_linears(model: nn.Module, layers: Layers) -> list[str]:
    """Names of the linear layers, save attention's output projections, that share no parameter with other modules."""
    holders = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    outputs = {layer.output_name for layer in layers.values()}
    return [
        name
        for name, module in model.named_modules()
        if is_linear(module)
        and name not in outputs
        and all(holders[id(parameter)] == 1 for parameter in module.parameters())
    ]


def _check_belong(name: str, student: AttentionLayer, teacher: AttentionLayer) -> None:
    """Refuse a layer of the pruned model that can't have been pruned from the teacher's of the same name.

    Raises:
        PlanError: its heads or sizes are not those of the teacher's layer, or a part of them.
        UnsupportedModule: an output projection that is no plain linear.
    """
    for layer in (student, teacher):
        if layer.num_heads and not is_linear(layer.output):
            raise UnsupportedModule(
                f"layer {name!r}: its output projection is a {type(layer.output).__name__}, not a plain linear"
            )
    if foreign := [head for head in student.heads if head not in teacher.heads]:
        raise PlanError(
            f"layer {name!r}: the pruned model has heads {foreign}, which the teacher has not (it has "
            f"{list(teacher.heads)}); give the model that was pruned"
        )
    of_student, of_teacher = (
        (layer.lineage.total_heads, weight_of(layer.output).shape[0], layer.head_dim) for layer in (student, teacher)
    )
    if of_student != of_teacher:
        raise PlanError(
            f"layer {name!r}: heads it was made with, width of its output and width of a head are {of_student} in "
            f"the pruned model and {of_teacher} in the teacher; give the model that was pruned"
        )
