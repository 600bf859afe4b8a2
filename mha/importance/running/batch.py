"""One calibration batch going through the model: its loss with gates on the heads, and that loss's gradients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer, AttentionMap
from mha.importance.running.examples import count_examples
from mha.importance.running.meter import Meter
from mha.pruning.masking import gated, on_context
from mha.values.errors import CalibrationError

Loss = Callable[[nn.Module, Any], Tensor]
Change = Callable[[AttentionLayer, Tensor], Tensor]


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch, and what was seen of the batch while it was computed.

    Attributes:
        value: the scalar that the loss function returned, the mean over the batch's examples.
        examples: how many examples the batch has.
        rows: layer name -> the sizes that the first dimension of its context had.
    """

    value: Tensor
    examples: int
    rows: Mapping[str, frozenset[int]]


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationBatch:
    """One batch of the calibration set, and the ways in which criteria run the model over it.

    Attributes:
        content: the batch itself, as `mha.score` was given it.
        number: its place in the calibration set, from 0.
        model: the model that is scored.
        layers: its attention layers, by name.
        loss_function: (model, content) -> scalar, the mean over the batch's examples.
        count: content -> how many examples it has; None finds out.
        meter: where the model's runs are counted.
    """

    content: Any
    number: int
    model: nn.Module
    layers: AttentionMap
    loss_function: Loss | None
    count: Callable[[Any], int] | None
    meter: Meter

    def loss(
        self, gates: Mapping[str, Tensor] | None = None, *, change: Change | None = None, share: float = 1
    ) -> BatchLoss:
        """The batch's loss with every head multiplied by its gate, for those who need no gradients of it.

        Args:
            gates: layer name -> (h,), a factor for the context of each head; layers not named keep theirs.
            change: (layer, context) -> what the layer's output projection reads instead, for every layer that runs.
            share: the share of the model that runs, by which the meter counts this run.

        Raises:
            CalibrationError: computing the loss ran no attention layer, the loss is not a finite scalar, or how many
                examples the batch has can't be told.
        """
        with self.run(gates, change=change, share=share) as loss:
            return loss

    @contextmanager
    def run(
        self, gates: Mapping[str, Tensor] | None = None, *, change: Change | None = None, share: float = 1
    ) -> Iterator[BatchLoss]:
        """Yield the batch's loss, whose gradients are to be computed within the context.

        A model that checkpoints its activations runs parts of itself again then, and must find the same gates.

        Args:
            gates: layer name -> (h,), a factor for the context of each head; layers not named keep theirs.
            change: (layer, context) -> what the layer's output projection reads instead, for every layer that runs.
            share: the share of the model that runs, by which the meter counts this run.

        Raises:
            CalibrationError: computing the loss ran no attention layer, the loss is not a finite scalar, or how many
                examples the batch has can't be told.
        """
        rows: dict[str, set[int]] = {}
        with ExitStack() as hooks:
            for layer in self.layers.values():
                if layer.num_heads:
                    hooks.enter_context(on_context(layer, partial(_observe, rows, layer, change)))
            hooks.enter_context(gated(self.layers, gates or {}))
            value = self._value()
            self.meter.ran_forward(share)
            self._check(value, rows)
            yield BatchLoss(value, self._count(rows), {name: frozenset(sizes) for name, sizes in rows.items()})

    def gradients(self, loss: BatchLoss, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The derivative of the batch's loss by each of the inputs; zero for one that the loss does not see.

        Args:
            loss: what `run` gave, within whose context this is called.
            inputs: name, such as a layer's, by which errors call it -> tensor that requires gradients, such as gates.

        Returns:
            The same names -> derivatives of the tensors' shapes.

        Raises:
            CalibrationError: the loss depends on none of them, or a derivative is NaN or infinite.
        """
        derivatives: Sequence[Tensor | None] = [None] * len(inputs)
        if loss.value.requires_grad and inputs:
            try:
                derivatives = torch.autograd.grad(loss.value, list(inputs.values()), allow_unused=True)
            except RuntimeError as error:
                raise CalibrationError(f"batch {self.number}: the loss can't be differentiated: {error}") from error
        if all(derivative is None for derivative in derivatives):
            raise CalibrationError(
                f"batch {self.number}: the loss has no gradient with respect to any attention head; it must be "
                "differentiable and depend on the model's output (is it detached, or computed under no_grad?)"
            )
        self.meter.ran_backward()
        for name, derivative in zip(inputs, derivatives, strict=True):
            if derivative is not None and not derivative.isfinite().all():
                raise CalibrationError(
                    f"batch {self.number}: the loss is finite but its gradient at layer {name!r} is not; look for a "
                    "square root, logarithm or division at 0 in the loss, or for half precision that overflows"
                )
        return {
            name: torch.zeros_like(tensor) if derivative is None else derivative
            for (name, tensor), derivative in zip(inputs.items(), derivatives, strict=True)
        }

    def holding(self, content: Any) -> "CalibrationBatch":
        """A copy of this `CalibrationBatch` that holds `content` instead, such as half of this batch's examples."""
        return replace(self, content=content)

    def _value(self) -> Any:
        """What the loss function returns for the model and the batch's content.

        Raises:
            CalibrationError: something was made in inference mode, so that gradients can't be computed.
        """
        assert self.loss_function is not None
        try:
            return self.loss_function(self.model, self.content)
        except RuntimeError as error:
            if "Inference tensors" not in str(error):
                raise
            raise CalibrationError(
                f"batch {self.number}: it, or something that the loss uses, was made in torch.inference_mode(), so "
                "gradients can't be computed; make it outside, or under torch.no_grad()"
            ) from error

    def _count(self, rows: Mapping[str, set[int]]) -> int:
        """How many examples the batch has: what the caller says, or what its tensors and the layers' context tell.

        Raises:
            CalibrationError: it can't be told, or what the caller says is no whole number above 0.
        """
        sizes = {size for layer_sizes in rows.values() for size in layer_sizes}
        examples = count_examples(self.content, sizes) if self.count is None else self.count(self.content)
        if examples is None and not self._any_head():
            return 1  # no head to score: nothing that weights could change
        if examples is None:
            listing = ", ".join(f"{name!r}: {sorted(layer_sizes)}" for name, layer_sizes in rows.items())
            raise CalibrationError(
                f"batch {self.number}: its tensors and the first dimension of the layers' context ({listing}) do not "
                "tell how many examples it has; say it: mha.score(..., examples=lambda batch: ...)"
            )
        if not isinstance(examples, int) or examples < 1:
            raise CalibrationError(f"batch {self.number}: examples(batch) must give a number above 0, got {examples!r}")
        return examples

    def _check(self, value: Any, rows: Mapping[str, set[int]]) -> None:
        """Check that `value`, which the loss function returned, is a finite scalar tensor, for which attention ran.

        Args:
            rows: layer name -> the sizes that the first dimension of its context had, for the layers that ran.

        Raises:
            CalibrationError: it is no finite scalar, or was computed without running the model's attention.
        """
        if not isinstance(value, Tensor) or value.numel() != 1:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise CalibrationError(
                f"batch {self.number}: expected loss(model, batch) to be a scalar tensor, the mean over the "
                f"batch's examples, got {came}"
            )
        if self._any_head() and not any(size for sizes in rows.values() for size in sizes):
            raise CalibrationError(
                f"batch {self.number}: computing the loss ran none of the model's attention layers on any "
                "example; it must call the model that it is given, on a batch that is not empty"
            )
        if not value.isfinite():
            raise CalibrationError(
                f"batch {self.number}: the loss is {value.item()}; look for NaN or infinite values in the "
                "batch or in the model's weights"
            )

    def _any_head(self) -> bool:
        """Whether any layer has a head left."""
        return any(layer.num_heads for layer in self.layers.values())


def _observe(rows: dict[str, set[int]], layer: AttentionLayer, change: Change | None, context: Tensor) -> Tensor:
    """Note the size of the context's first dimension in `rows`; returns the context, changed if `change` is given."""
    rows.setdefault(layer.name, set()).add(len(context))
    return context if change is None else change(layer, context)
