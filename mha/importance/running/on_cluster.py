"""Calibration whose batches are read by the workers of a cluster: sums are added up there, shard by shard."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

import torch
from torch import nn

from mha.families import find_attention
from mha.importance.running.calibration import Calibration, Sums
from mha.importance.running.journal import Journal
from mha.importance.running.shard import contents
from mha.pruning.masking import at_rest, masked, nothing_compiled
from mha.runtime.cluster import Cluster, Task
from mha.runtime.inference_tensors import usable_batch
from mha.runtime.locking import locked
from mha.values.errors import CalibrationError
from mha.values.plan import HeadPlan

S = TypeVar("S", bound=Sums)
R = TypeVar("R")
Removed = Mapping[str, Sequence[int]]


class Batches:
    """Batches that are sent together. (It is no list, in which dask would look for futures.)

    Args:
        first: the number of the first one; the others follow.
    """

    def __init__(self, first: int, batches: list[Any]) -> None:
        self.first, self.batches = first, batches


@dataclass(frozen=True)
class _Tally(Generic[R]):
    """What came of some shards, and what it took.

    Attributes:
        result: that of these shards.
        batches: how many they have.
        forward, backward: how many runs of the model it took.
    """

    result: R
    batches: int
    forward: float
    backward: float

    def __add__(self, other: "_Tally[R]") -> "_Tally[R]":
        result: R = self.result + other.result  # type: ignore[operator]
        spent = self.forward + other.forward, self.backward + other.backward
        return _Tally(result, self.batches + other.batches, *spent)


class ClusterCalibration(Calibration):
    """A calibration of the model here, the batches of which workers read.

    Args:
        here: the calibration to take over.
        cluster: has been sent the model, the loss, and how examples are counted.
    """

    def __init__(self, here: Calibration, cluster: Cluster, *, removed: Removed | None = None) -> None:
        super().__init__(
            here.model, here.layers, here.batches, here.loss, here.seed, here.count, meter=here.meter, removed=removed
        )
        self._cluster = cluster

    def expect(self, readings: int) -> None:
        """Nothing: each reading says itself how many shards it has."""

    def each_batch(self) -> NoReturn:
        """Refuse to read batches here.

        Raises:
            CalibrationError: always.
        """
        raise CalibrationError(
            "a criterion that is registered as additive reads batches by Calibration.mean_loss and summed alone on a "
            "cluster, and this one goes through each_batch(): register it without additive=True"
        )

    def summed(self, sums: S) -> S:
        """The sums with all batches added, by the workers.

        Raises:
            CalibrationError: as in `Calibration.summed`, or what `Cluster.added` raises.
        """
        before = self.meter.forward
        super().expect(1)
        tally = self._cluster.added(_summed, self._tasks, sums, self.seed, self.removed, done=self.meter.ran_forward)
        return self._noted(tally, before)

    def whole(self, function: Callable[..., R], *args: Any) -> R:
        """What the function returns for a calibration of all batches and these arguments, computed by one worker.

        Raises:
            CalibrationError: as `Cluster.mapped`.
        """
        before = self.meter.forward
        shards = [task.shard for task in self._tasks()]
        if any(map(is_future, shards)):
            task = Task("all shards", self._cluster.submit(_joined, shards))
        else:
            task = Task("all shards", _joined(shards), exact=True)
        return self._noted(self._cluster.mapped(_computed, task, function, self.seed, args), before)

    def _noted(self, tally: _Tally[R], before: float) -> R:
        """The result, after what it took has been noted down.

        Args:
            before: runs of the model that were noted before; those noted since then are what `tally` says.

        Raises:
            CalibrationError: there were no batches, or another number of them than at the first reading.
        """
        self.meter.ran_forward(tally.forward - (self.meter.forward - before))
        self.meter.ran_backward(tally.backward)
        self._check_number(tally.batches)
        return tally.result

    def _tasks(self) -> Iterator[Task]:
        """The shards."""
        return tasks_of(self.batches or ())

    def _with(self, *, removed: Removed, journal: Journal) -> "ClusterCalibration":  # noqa: ARG002
        return ClusterCalibration(self, self._cluster, removed=removed)


@contextmanager
def on_cluster(calibration: Calibration, client: Any) -> Iterator[ClusterCalibration]:
    """Yield the calibration with the workers of the client reading the batches; nothing is left with them afterwards.

    Raises:
        CalibrationError: as `Cluster`.
    """
    shared = {"model": calibration.model, "loss": calibration.loss, "examples": calibration.count}
    cluster = Cluster(client, shared, "mha.score")
    try:
        yield ClusterCalibration(calibration, cluster)
    finally:
        cluster.close()


def tasks_of(batches: Iterable[Any]) -> Iterator[Task]:
    """The shards of these batches, shards of batches, and futures of either."""
    first = 0
    for number, item in enumerate(batches):
        if is_future(item):
            yield Task(f"shard {number}", item)
        else:
            shard = Batches(first, [usable_batch(batch) for batch in contents([item])])
            yield Task(f"shard {number} ({_range(first, len(shard.batches))})", shard, exact=True)
            first += len(shard.batches)


def is_future(item: Any) -> bool:
    """Whether it is a future of dask.distributed, told without importing that."""
    return type(item).__module__.partition(".")[0] == "distributed" and hasattr(item, "key")


def _range(first: int, count: int) -> str:
    """Which batches these are, in words."""
    return f"batch {first}" if count == 1 else f"batches {first} to {first + count - 1}"


def _joined(shards: Sequence[Any]) -> Batches:
    """All shards as one, numbered from 0."""
    return Batches(0, [batch for shard in shards for batch in batches_of(shard).batches])


def batches_of(shard: Any) -> Batches:
    """The batches of a shard, as `ClusterCalibration` sends it, or as a future on the cluster holds it."""
    return shard if isinstance(shard, Batches) else Batches(0, list(contents([shard])))


@contextmanager
def _opened(shared: Mapping[str, Any], batches: Sequence[Any], seed: int, removed: Removed) -> Iterator[Calibration]:
    """On a worker: a calibration of these batches, while the model is in eval mode and without the heads removed."""
    model: nn.Module = shared["model"]
    with locked(model, by="mha.score", draws=True), ExitStack() as opened:
        layers = find_attention(model)
        opened.enter_context(at_rest(model))
        opened.enter_context(nothing_compiled())
        torch.manual_seed(seed)
        kept = {
            name: [head for position, head in enumerate(layers[name].heads) if position not in gone]
            for name, gone in removed.items()
            if gone
        }
        if kept:
            opened.enter_context(masked(model, HeadPlan(kept)))
        yield Calibration(model, layers, batches, shared["loss"], seed, shared["examples"], removed=removed)


def _summed(shared: Mapping[str, Any], shard: Any, sums: S, seed: int, removed: Removed) -> _Tally[S]:
    """On a worker: the sums over the batches of a shard; `sums` are over none, and stay so."""
    sums, numbered = copy.deepcopy(sums), batches_of(shard)
    with _opened(shared, numbered.batches, seed, removed) as calibration:
        for number, content in enumerate(numbered.batches, start=numbered.first):
            calibration.add_to(sums, calibration.batch(usable_batch(content), number))
        return _Tally(sums, len(numbered.batches), calibration.meter.forward, calibration.meter.backward)


def _computed(
    shared: Mapping[str, Any], shard: Any, function: Callable[..., R], seed: int, args: Sequence[Any]
) -> _Tally[R]:
    """On a worker: what the function returns for a calibration of all batches."""
    batches = batches_of(shard).batches
    with _opened(shared, batches, seed, {}) as calibration:
        result = function(calibration, *args)
        return _Tally(result, len(batches), calibration.meter.forward, calibration.meter.backward)
