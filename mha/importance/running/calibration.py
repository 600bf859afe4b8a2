"""What a criterion works with: a model at rest, its attention, and the loss on calibration batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer, AttentionMap
from mha.importance.running.examples import count_examples
from mha.importance.running.journal import Journal
from mha.importance.running.meter import Meter
from mha.pruning.masking import gated, on_context
from mha.runtime.inference_tensors import usable_batch
from mha.values.errors import CalibrationError

Loss = Callable[[nn.Module, Any], Tensor]
Change = Callable[[AttentionLayer, Tensor], Tensor]


@dataclass(frozen=True)
class Calibration:
    """The arguments of `mha.score`, and the few ways in which criteria run the model.

    Attributes:
        count: batch -> how many examples it has; None finds out.
        meter: counts the model's runs.
        removed: layer name -> positions of the heads that are masked while an iterative mode scores the others.
        journal: what has been measured, by this call or by one that was cut short.
    """

    model: nn.Module
    layers: AttentionMap
    batches: Iterable[Any] | None
    loss: Loss | None
    seed: int
    count: Callable[[Any], int] | None = None
    meter: Meter = field(default_factory=Meter, repr=False)
    removed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    journal: Journal = field(default_factory=lambda: Journal(None, {}), repr=False)
    generator: torch.Generator = field(init=False, repr=False)
    _lengths: list[int] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "generator", torch.Generator().manual_seed(self.seed))

    @property
    def with_heads(self) -> dict[str, AttentionLayer]:
        """The layers that have any head left."""
        return {name: layer for name, layer in self.layers.items() if layer.num_heads}

    def present(self) -> list[tuple[str, int]]:
        """Layer and position of every head that is not masked."""
        return [
            (name, head)
            for name, layer in self.layers.items()
            for head in range(layer.num_heads)
            if head not in self.removed.get(name, ())
        ]

    def key(self, what: str) -> str:
        """Where the journal has this, with the heads that are masked now."""
        return f"{what} without {sorted((name, sorted(heads)) for name, heads in self.removed.items() if heads)}"

    def check(self) -> None:
        """
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

    def expect(self, readings: int) -> None:
        """The progress bar is to count so many more readings of the calibration set."""
        if isinstance(self.batches, Sized):
            self.meter.expect(readings * len(self.batches))

    def passes(self) -> "Iterator[Pass]":
        """One `Pass` per batch.

        Raises:
            CalibrationError: there are no batches, or another number of them than at the last reading.
        """
        number = 0
        for number, batch in enumerate(self.batches or (), start=1):
            yield Pass(self, number - 1, usable_batch(batch))
        first = self._lengths[0] if self._lengths else number
        if not number and not first:
            raise CalibrationError("the calibration set is empty: expected at least one batch")
        if number != first:
            raise CalibrationError(
                f"batches gave {first} batches when read first, and {number} when read again: criteria read them "
                "several times; give a list or a DataLoader"
            )
        self._lengths.append(number)

    def mean_loss(self, gates: Mapping[str, Tensor] | None = None) -> float:
        """The loss over all calibration examples, with these gates on the heads; no gradients."""
        return self.mean_loss_and_examples(gates)[0]

    def mean_loss_and_examples(self, gates: Mapping[str, Tensor] | None = None) -> tuple[float, int]:
        """The loss over all calibration examples, and how many there are."""
        total, examples = 0.0, 0
        with torch.no_grad():
            for one in self.passes():
                value = one.loss(gates)
                total, examples = total + value.item() * one.examples, examples + one.examples
        return total / examples, examples


class Pass:
    """One batch going through the model.

    Attributes:
        examples: how many examples the batch turned out to have, known after `loss` has run.
        rows: layer name -> sizes of the first dimension of its context, known after `loss` has run.
    """

    def __init__(self, calibration: Calibration, number: int, batch: Any) -> None:
        self.number = number
        self.batch = batch
        self.examples = 0
        self.rows: dict[str, set[int]] = {}
        self._calibration = calibration

    def loss(
        self, gates: Mapping[str, Tensor] | None = None, *, change: Change | None = None, share: float = 1
    ) -> Tensor:
        """The batch's loss with every head multiplied by its gate, for those who need no gradients of it.

        Args:
            change: (layer, context) -> what the layer's output projection reads instead, for every layer that runs.
            share: how much of the model runs, for the count.

        Raises:
            CalibrationError: the loss did not run the model, or is not a finite scalar.
        """
        with self.run(gates, change=change, share=share) as value:
            return value

    @contextmanager
    def run(
        self, gates: Mapping[str, Tensor] | None = None, *, change: Change | None = None, share: float = 1
    ) -> Iterator[Tensor]:
        """The batch's loss, as from `loss`. Its gradients are to be computed within the context.

        A model that checkpoints its activations runs parts of itself again then, and must find the same gates.
        """
        calibration = self._calibration
        self.examples, self.rows = 0, {}
        with ExitStack() as hooks:
            for layer in calibration.with_heads.values():
                hooks.enter_context(on_context(layer, partial(self._observe, layer, change)))
            hooks.enter_context(gated(calibration.layers, gates or {}))
            value = self._value()
            calibration.meter.ran_forward(share)
            self._check(value)
            self.examples = self._count()
            yield value

    def _value(self) -> Any:
        calibration = self._calibration
        assert calibration.loss is not None
        try:
            return calibration.loss(calibration.model, self.batch)
        except RuntimeError as error:
            if "Inference tensors" not in str(error):
                raise
            raise CalibrationError(
                f"batch {self.number}: it, or something that the loss uses, was made in torch.inference_mode(), so "
                "gradients can't be computed; make it outside, or under torch.no_grad()"
            ) from error

    @property
    def model(self) -> nn.Module:
        return self._calibration.model

    def half(self, batch: Any) -> "Pass":
        """A pass of a part of this batch."""
        return Pass(self._calibration, self.number, batch)

    def gradients(self, value: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The derivative of the loss `value` by each of the inputs; zero for a layer the loss does not see.

        Raises:
            CalibrationError: the loss depends on none of them, or a derivative is NaN or infinite.
        """
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if value.requires_grad and inputs:
            try:
                found = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
            except RuntimeError as error:
                raise CalibrationError(f"batch {self.number}: the loss can't be differentiated: {error}") from error
        if all(gradient is None for gradient in found):
            raise CalibrationError(
                f"batch {self.number}: the loss has no gradient with respect to any attention head; it must be "
                "differentiable and depend on the model's output (is it detached, or computed under no_grad?)"
            )
        self._calibration.meter.ran_backward()
        for name, gradient in zip(inputs, found, strict=True):
            if gradient is not None and not gradient.isfinite().all():
                raise CalibrationError(
                    f"batch {self.number}: the loss is finite but its gradient at layer {name!r} is not; look for a "
                    "square root, logarithm or division at 0 in the loss, or for half precision that overflows"
                )
        return {
            name: torch.zeros_like(given) if gradient is None else gradient
            for (name, given), gradient in zip(inputs.items(), found, strict=True)
        }

    def _observe(self, layer: AttentionLayer, change: Change | None, context: Tensor) -> Tensor:
        self.rows.setdefault(layer.name, set()).add(len(context))
        return context if change is None else change(layer, context)

    def _count(self) -> int:
        """
        Raises:
            CalibrationError: it can't be told how many examples the batch has.
        """
        sizes = {size for layer in self.rows.values() for size in layer}
        given = self._calibration.count
        found = count_examples(self.batch, sizes) if given is None else given(self.batch)
        if found is None and not self._calibration.with_heads:
            return 1  # no head to score: nothing that weights could change
        if found is None:
            listing = ", ".join(f"{name!r}: {sorted(rows)}" for name, rows in self.rows.items())
            raise CalibrationError(
                f"batch {self.number}: its tensors and the first dimension of the layers' context ({listing}) do not "
                "tell how many examples it has; say it: mha.score(..., examples=lambda batch: ...)"
            )
        if not isinstance(found, int) or found < 1:
            raise CalibrationError(f"batch {self.number}: examples(batch) must give a number above 0, got {found!r}")
        return found

    def _check(self, value: Any) -> None:
        if not isinstance(value, Tensor) or value.numel() != 1:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise CalibrationError(
                f"batch {self.number}: expected loss(model, batch) to be a scalar tensor, the mean over the "
                f"batch's examples, got {came}"
            )
        if self._calibration.with_heads and not any(size for rows in self.rows.values() for size in rows):
            raise CalibrationError(
                f"batch {self.number}: computing the loss ran none of the model's attention layers on any "
                "example; it must call the model that it is given, on a batch that is not empty"
            )
        if not value.isfinite():
            raise CalibrationError(
                f"batch {self.number}: the loss is {value.item()}; look for NaN or infinite values in the "
                "batch or in the model's weights"
            )


def _can_be_read(batches: object) -> bool:
    return isinstance(batches, Iterable) or hasattr(batches, "__getitem__")
