"""What a criterion works with: a model in eval mode, its attention layers, and the loss on calibration batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer, AttentionMap
from mha.importance.running.batch import CalibrationBatch, Loss
from mha.importance.running.journal import Journal
from mha.importance.running.meter import Meter
from mha.importance.running.shard import contents
from mha.runtime.inference_tensors import usable_batch
from mha.values.errors import CalibrationError

A = TypeVar("A")
S = TypeVar("S", bound="Sums")


class Sums(ABC):
    """What a criterion adds up batch by batch; the sums of two sets of batches add up to those of both.

    A new one is the sums over no batch. It can be sent to another process, as can what it refers to.
    """

    @abstractmethod
    def add(self, calibration: "Calibration", batch: CalibrationBatch) -> None:
        """Add a batch, by running the model over it.

        Args:
            calibration: has the model and the seed; not all batches, where these are added up on several machines.
        """

    @abstractmethod
    def __add__(self, other: Self) -> Self:
        """New sums, over the batches of both; these two stay as they are."""


def added(one: Mapping[str, A], other: Mapping[str, A]) -> dict[str, A]:
    """Name -> the sum of what both have under it, or what one of them has, as where a layer did not run."""
    both = {name: value + other[name] for name, value in one.items() if name in other}  # type: ignore[operator]
    return {**one, **other, **both}


class Calibration:
    """What a criterion's function is given: the arguments of `mha.score`, and the few ways to run the model.

    Scores are of all heads that a layer has now, by position: position 0 is the first head that is left, whatever its
    original number. `layers[name].heads` has the original numbers. While `mha.score(..., rounds=...)` removes heads,
    those in `removed` are masked already: `present` lists the others, and whatever is said of masked ones is ignored.

    Most criteria need no more than this:

    - `layers`: name -> `AttentionLayer`, with `num_heads`, `num_kv_heads`, `head_dim`, `module`, and `output`, the
      output projection; `with_heads` are those with any head left.
    - `zeros()`: layer name -> (h,) of zeros, to fill with scores; `present()`: (layer name, position) of every head.
    - `mean_loss(gates)`: the loss over all calibration examples, each head's context multiplied by its gate.
    - `summed(sums)`: what your own `Sums` add up over all batches; on a cluster, shard by shard on its workers.
    - `each_batch()`: the batches, one by one. `batch.loss(gates)` runs the model; within
      `with batch.run(gates) as loss:`, `batch.gradients(loss, gates)` are the derivatives of the loss by the gates.
      `loss.value` is the scalar, and `loss.examples` the number of examples that it is a mean over.
    - `generator`: random numbers by the seed; `expect(n)`: the bar on stderr is to count n more readings of the set.

    The model runs in eval mode, and is put back as it was when scoring ends.

    Attributes:
        model: the model that is scored.
        layers: its attention layers, by name.
        batches: the calibration batches, as `mha.score` was given them; None where it was given none.
        loss: (model, batch) -> scalar, the mean over the batch's examples; None where there is none.
        seed: for what is drawn at random.
        count: batch -> how many examples it has; None finds out.
        meter: counts the model's runs.
        removed: layer name -> positions of the heads that are masked while the others are scored in rounds.
        journal: what has been measured, by this call or by one that was cut short.
        generator: of random numbers, on the CPU; starts from the seed.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: AttentionMap,
        batches: Iterable[Any] | None,
        loss: Loss | None,
        seed: int,
        count: Callable[[Any], int] | None = None,
        *,
        meter: Meter | None = None,
        removed: Mapping[str, Sequence[int]] | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.model = model
        self.layers = layers
        self.batches = batches
        self.loss = loss
        self.seed = seed
        self.count = count
        self.meter = meter or Meter()
        self.removed = dict(removed or {})
        self.journal = journal or Journal(None, {})
        self.generator = torch.Generator().manual_seed(seed)
        self._read: int | None = None  # how many batches there were when they were first read

    @property
    def with_heads(self) -> dict[str, AttentionLayer]:
        """The layers that have any head left, by name."""
        return {name: layer for name, layer in self.layers.items() if layer.num_heads}

    def present(self) -> list[tuple[str, int]]:
        """Layer name and position of every head that is not masked."""
        return [
            (name, position)
            for name, layer in self.layers.items()
            for position in range(layer.num_heads)
            if position not in self.removed.get(name, ())
        ]

    def zeros(self) -> dict[str, Tensor]:
        """A score of 0 for every head: layer name -> (h,) in float64."""
        return {name: torch.zeros(layer.num_heads, dtype=torch.float64) for name, layer in self.layers.items()}

    def by_layer(self, values: Tensor, masked: float = 0.0) -> dict[str, Tensor]:
        """Layer name -> (h,): `values` (n,), a number for each head of `present` in that order, sorted into layers.

        Args:
            masked: the number for each head that is masked, and so not in `present`.
        """
        numbers = {place: number for number, place in enumerate(self.present())}
        padded = torch.cat([values, values.new_full((1,), masked)])
        return {
            name: padded[[numbers.get((name, position), len(values)) for position in range(layer.num_heads)]]
            for name, layer in self.layers.items()
        }

    def without(self, removed: Mapping[str, Sequence[int]]) -> "Calibration":
        """The same calibration while the heads at these positions are masked; its random numbers start again.

        It only knows of the masks: the caller puts them on.
        """
        return self._with(removed=removed, journal=self.journal)

    def noted_in(self, journal: Journal) -> "Calibration":
        """The same calibration with a journal to note down what is measured."""
        return self._with(removed=self.removed, journal=journal)

    def key(self, what: str) -> str:
        """The journal's key for the measurement that `what` names; the heads that are masked now are part of it."""
        return f"{what} without {sorted((name, sorted(heads)) for name, heads in self.removed.items() if heads)}"

    def check(self) -> None:
        """Check that there are a loss and batches, which every criterion needs that doesn't work on weights alone.

        Raises:
            CalibrationError: there is no loss, or there are no batches that can be read more than once.
        """
        if not callable(self.loss):
            raise CalibrationError(f"expected loss(model, batch) -> scalar, got {self.loss!r}")
        if self.batches is None:
            raise CalibrationError("this criterion needs calibration batches, got None")
        if isinstance(self.batches, Iterator):
            raise CalibrationError(
                "batches is an iterator, which can be read only once; give a list or a DataLoader: list(batches)"
            )
        if isinstance(self.batches, Mapping | str | bytes) or not _can_be_read(self.batches):
            raise CalibrationError(
                f"expected batches to be a list or a DataLoader, got {type(self.batches).__name__}; "
                "a single batch is a list of one: [batch]"
            )

    def check_depends(self, dense: float, without_heads: float) -> None:
        """Check that the loss depends on attention at all: it is not the same with all heads and with none.

        Raises:
            CalibrationError: it is the same.
        """
        if dense == without_heads:
            raise CalibrationError(
                f"the loss is {dense:.6g} with all heads and with none: on these batches it does not depend on the "
                "model's attention"
            )

    def expect(self, readings: int) -> None:
        """Tell the progress bar that so many more readings of the calibration set are to come (fewer, if negative).

        Nothing is told where `batches` has no length.
        """
        if isinstance(self.batches, Sized):
            self.meter.expect(readings * len(self.batches))

    def batch(self, content: Any, number: int) -> CalibrationBatch:
        """The `CalibrationBatch` by which the model is run over `content`, the batch at place `number` of the set."""
        return CalibrationBatch(content, number, self.model, self.layers, self.loss, self.count, self.meter)

    def each_batch(self) -> Iterator[CalibrationBatch]:
        """The batches, one by one.

        Raises:
            CalibrationError: there are no batches, or another number of them than at the first reading.
        """
        count = 0
        for count, content in enumerate(contents(self.batches or ()), start=1):
            yield self.batch(usable_batch(content), count - 1)
        self._check_number(count)

    def _check_number(self, count: int) -> None:
        """Check that a reading gave this number of batches, above 0, as the first reading did.

        Raises:
            CalibrationError: it gave none, or another number of them than at the first reading.
        """
        if not count and not self._read:
            raise CalibrationError("the calibration set is empty: expected at least one batch")
        if self._read is None:
            self._read = count
        if count != self._read:
            raise CalibrationError(
                f"batches gave {self._read} batches when read first, and {count} when read again: criteria read them "
                "several times; give a list or a DataLoader"
            )

    def mean_loss(self, gates: Mapping[str, Tensor] | None = None) -> float:
        """The mean loss over all calibration examples, without gradients; a batch counts by its number of examples.

        Args:
            gates: layer name -> (h,), a factor for the context of each head; layers not named keep theirs.

        Raises:
            CalibrationError: there are no batches, or a batch's loss ran no attention layer or is no finite scalar.
        """
        sums = self.summed(_LossSums(dict(gates or {})))
        return sums.total / sums.examples

    def summed(self, sums: S) -> S:
        """The sums with all batches added; begins with `sums`, which are over none.

        Every batch is added with the random state that the seed gives, so that what a loss draws depends neither on
        the batches before it nor on where it runs.

        Raises:
            CalibrationError: there are no batches, or another number of them than at the first reading.
        """
        for batch in self.each_batch():
            self.add_to(sums, batch)
        return sums

    def add_to(self, sums: Sums, batch: CalibrationBatch) -> None:
        """Add a batch to the sums, in place, with the random state that the seed gives."""
        with _drawing(self.seed):
            sums.add(self, batch)

    def _with(self, *, removed: Mapping[str, Sequence[int]], journal: Journal) -> "Calibration":
        """The same calibration with other masks, or another journal; its random numbers start again."""
        return Calibration(
            self.model,
            self.layers,
            self.batches,
            self.loss,
            self.seed,
            self.count,
            meter=self.meter,
            removed=removed,
            journal=journal,
        )


@dataclass
class _LossSums(Sums):
    """The sum of the examples' losses.

    Attributes:
        gates: layer name -> (h,), a factor for the context of each head.
        total: the sum.
        examples: how many there are.
    """

    gates: Mapping[str, Tensor]
    total: float = 0.0
    examples: int = 0

    def add(self, _calibration: Calibration, batch: CalibrationBatch) -> None:
        with torch.no_grad():
            loss = batch.loss(self.gates)
        self.total += loss.value.item() * loss.examples
        self.examples += loss.examples

    def __add__(self, other: Self) -> Self:
        return replace(self, total=self.total + other.total, examples=self.examples + other.examples)


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Within the context random numbers start from the seed; afterwards those of the CPU go on where they were.

    What makes batches draws from them too.
    """
    before = torch.default_generator.get_state()
    reseed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def reseed(seed: int) -> None:
    """Make the next pass draw the same random numbers as others with this seed, so that their losses can be compared.

    It does without `torch.manual_seed`, which notes down the whole call stack where there is no CUDA, and so takes
    longer than a small layer.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _can_be_read(batches: object) -> bool:
    """Whether the batches can be gone through, one after the other."""
    return isinstance(batches, Iterable) or hasattr(batches, "__getitem__")
