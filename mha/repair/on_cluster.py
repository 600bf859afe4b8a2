"""Repair by the workers of a cluster: the moments that a layer is fitted to are added up there, shard by shard.

The dense model is read once. Then every layer takes passes of its own through both models, from the start up to that
layer (`FromTheStart`), since no worker holds what another one's batches have come to; the sums come here, the layer is
fitted, and the workers are sent its new weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import find_attention
from mha.importance.running.on_cluster import Batches, batches_of, tasks_of
from mha.pruning.masking import at_rest
from mha.repair.fit_linear import Method, Sides, fit_to, share_of, sides_of
from mha.repair.layers_to_fit import Scope, by_output, check_belong, emptied, part_of, parts_of
from mha.repair.observe import Forward, calling_outputs
from mha.repair.reading import sought_in
from mha.repair.residual_stream import Goal, check_ran, weights_of
from mha.repair.rows import Call, FromTheStart, Part, SideBySide, StrayedError
from mha.runtime.cluster import Cluster, Task
from mha.runtime.inference_tensors import usable_batch
from mha.runtime.locking import locked
from mha.runtime.progress import WITH_GRADIENTS, Bar
from mha.values.errors import CalibrationError

BY = "mha.compensate"


@dataclass(frozen=True)
class _Read:
    """What was read of the dense model on some batches.

    Attributes:
        goals: linear layer -> its goal, without weights, by the first of the batches.
        weights: batch -> layer -> for each of its runs how much every token counts.
    """

    goals: Mapping[str, Goal]
    weights: Mapping[int, Mapping[str, list[Tensor]]]

    def __add__(self, other: "_Read") -> "_Read":
        return _Read(self.goals or other.goals, {**self.weights, **other.weights})


def fit_on_cluster(
    repaired: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Any],
    forward: Forward,
    bar: Bar,
    client: Any,
    *,
    method: Method,
    scope: Scope,
) -> None:
    """Fit the linear layers of `repaired`, the pruned model, to `teacher`, in place, as `fit_again` does.

    Args:
        batches: batches, shards of them, or futures of either.
        client: a `distributed.Client`.

    Raises:
        CalibrationError, PlanError, UnsupportedModule: as `fit_again`, or `Cluster`.
    """
    students, teachers = find_attention(repaired), find_attention(teacher)
    check_belong(students, teachers)
    cluster = Cluster(client, {"pruned model": repaired, "teacher": teacher, "forward": forward}, BY)
    try:
        tasks = _tasks(cluster, batches)
        bar.expect(WITH_GRADIENTS * len(tasks))
        bar.doing("reading the dense model")
        read = cluster.added(_read, lambda: iter(tasks), done=partial(bar.advance, WITH_GRADIENTS))
        check_ran(read.goals, [layer.output_name for layer in teachers.values()])
        count = len(read.weights)
        for name, goal in read.goals.items():
            goal.weights = {number: read.weights[number].get(name, []) for number in range(count)}
        parts = parts_of(repaired, teacher, read.goals, method, scope)
        bar.expect(len(parts) * len(tasks))
        for part in _in_order(parts, repaired, teacher, tasks, forward):
            bar.doing(part.name)
            described = part.name, part.goal.reader, part.kept, share_of(part)
            of_part = partial(_with_weights, tasks, part.goal.weights)
            sides = cluster.added(_sides, of_part, described, count, done=bar.advance)
            fit_to(part, sides, method)
            cluster.share((part.name, part.linear.state_dict()))
    finally:
        cluster.close()


def _tasks(cluster: Cluster, batches: Sequence[Any]) -> list[Task]:
    """The shards; each has the number of its first batch as an argument of its own."""
    tasks: list[Task] = []
    first = 0
    for task in tasks_of(batches):
        here = isinstance(task.shard, Batches)
        count: int = len(task.shard.batches) if here else cluster.mapped(_count, task)
        tasks.append(task._replace(args=(first, count), exact=True))
        first += count
    if not first:
        raise CalibrationError("the calibration set is empty: expected at least one batch")
    return tasks


def _with_weights(tasks: Sequence[Task], weights: Mapping[int, list[Tensor]]) -> Iterator[Task]:
    """The tasks, with a layer's weights of their batches as a further argument, by the batches' numbers."""
    for task in tasks:
        first, count = task.args
        yield task._replace(args=(first, {number: weights[number] for number in range(first, first + count)}))


def _in_order(
    parts: Sequence[Part], repaired: nn.Module, teacher: nn.Module, tasks: Sequence[Task], forward: Forward
) -> list[Part]:
    """The layers in the order in which one process fits them, which it sees when passes go side by side.

    One batch tells it, if it is here. Where it can't be told, as in a model that can't be led so, the order is that in
    which the layers run, which is one process's order then too.
    """
    here = [batch for task in tasks if isinstance(task.shard, Batches) for batch in task.shard.batches]
    if not here or not all(len(runs) == 1 for part in parts for runs in part.goal.weights.values()):
        return list(parts)
    call = Call(0, 0, lambda model: forward(model, here[0]))
    try:
        hooked = calling_outputs(find_attention(teacher)), calling_outputs(find_attention(repaired))
        with at_rest(teacher, repaired), hooked[0], hooked[1], torch.no_grad():
            return list(SideBySide(repaired, teacher, parts, [call]))
    except (StrayedError, CalibrationError):
        return list(parts)


def _count(_shared: Mapping[str, Any], shard: Any) -> int:
    """On a worker: how many batches a shard has."""
    return len(batches_of(shard).batches)


@contextmanager
def _opened(shared: Mapping[str, Any]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """On a worker: the pruned model as far as it is fitted, and the dense one, in eval mode and both hooked."""
    repaired, teacher = shared["pruned model"], shared["teacher"]
    with locked(repaired, teacher, by=BY, draws=True), at_rest(teacher, repaired):
        students, teachers = find_attention(repaired), find_attention(teacher)
        layers = by_output(students, teachers)
        for name, state in shared["later"]:
            part_of(repaired, teacher, layers, name, Goal(), None).linear.load_state_dict(state)
        with calling_outputs(teachers):
            yield repaired, teacher


def _read(shared: Mapping[str, Any], shard: Any, first: int, _count: int) -> _Read:
    """On a worker: the goals of the dense model's layers by the first batch of a shard, and the weights by all."""
    goals: dict[str, Goal] = {}
    weights: dict[int, Mapping[str, list[Tensor]]] = {}
    forward: Forward = shared["forward"]
    with _opened(shared) as (repaired, teacher):
        students, teachers = find_attention(repaired), find_attention(teacher)
        silent = {module for name in emptied(students, teachers) for module in teachers[name].module.modules()}
        sought = sought_in(teacher, silent)
        for number, content in enumerate(batches_of(shard).batches, start=first):
            batch = usable_batch(content)
            found, weights[number] = weights_of(
                teacher, sought, batch, number, lambda model, numbered: forward(model, numbered[1]), None
            )
            goals = goals or found
    return _Read(goals, weights)


def _sides(
    shared: Mapping[str, Any],
    shard: Any,
    first: int,
    weights: Mapping[int, list[Tensor]],
    described: tuple[str, str | None, Tensor | None, float],
    count: int,
) -> Sides:
    """On a worker: the moments of what a layer reads and should put out, over the batches of a shard.

    Args:
        first: the number of its first batch, among `count` of all shards.
        weights: those of the layer's goal, by batch.
        described: the layer's name, its goal's reader, which outputs it has kept, and the share of tokens to draw.
    """
    name, reader, kept, share = described
    batches = [usable_batch(batch) for batch in batches_of(shard).batches]
    with _opened(shared) as (repaired, teacher), torch.no_grad():
        students = find_attention(repaired)
        layers = by_output(students, find_attention(teacher))
        part = part_of(repaired, teacher, layers, name, Goal(reader, weights), kept)
        with calling_outputs(students):
            source = FromTheStart(repaired, teacher, [part], batches, shared["forward"], first)
            return sides_of(part, source.rows(part), count, share)
