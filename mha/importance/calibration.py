"""What a criterion works with: a model at rest, its attention, and the loss on calibration batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mha.errors import CalibrationError
from mha.families import AttentionLayer, AttentionMap
from mha.masking import eval_mode, gated, on_context, scale

Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Calibration:
    """The arguments of `mha.score`, and the few ways in which criteria run the model."""

    model: nn.Module
    layers: AttentionMap
    batches: Sequence[Any] | None
    loss: Loss | None
    seed: int
    generator: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "generator", torch.Generator().manual_seed(self.seed))

    @property
    def with_heads(self) -> dict[str, AttentionLayer]:
        """The layers that have any head left."""
        return {name: layer for name, layer in self.layers.items() if layer.num_heads}

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
        if next(iter(self.batches), None) is None:
            raise CalibrationError("the calibration set is empty: expected at least one batch")

    def passes(self) -> "Iterator[Pass]":
        """One `Pass` per batch."""
        for number, batch in enumerate(self.batches or ()):
            yield Pass(self, number, batch)

    def mean_loss(self, gates: Mapping[str, Tensor] | None = None) -> float:
        """The loss over all calibration examples, with these gates on the heads; no gradients."""
        total, examples = 0.0, 0
        with torch.no_grad():
            for one in self.passes():
                value = one.loss(gates)
                total, examples = total + value.item() * one.examples, examples + one.examples
        return total / examples


class Pass:
    """One batch going through the model.

    Attributes:
        examples: how many examples the batch turned out to have, known after `loss` has run.
        example_gates: layer name -> (b, h), all ones, through which the per-example gradients of the last
            `loss(per_example=True)` flow.
    """

    def __init__(self, calibration: Calibration, number: int, batch: Any) -> None:
        self._calibration = calibration
        self._number = number
        self._batch = batch
        self.examples = 0
        self.example_gates: dict[str, Tensor] = {}

    def loss(self, gates: Mapping[str, Tensor] | None = None, *, per_example: bool = False) -> Tensor:
        """The batch's loss with every head multiplied by its gate; with gradients if they are enabled.

        Raises:
            CalibrationError: the loss did not run the model, or is not a finite scalar.
        """
        calibration = self._calibration
        assert calibration.loss is not None
        self.examples = 0
        with ExitStack() as hooks:
            for layer in calibration.with_heads.values():
                hooks.enter_context(on_context(layer, self._observe(layer, per_example)))
            hooks.enter_context(gated(calibration.layers, gates or {}))
            value = calibration.loss(calibration.model, self._batch)
        self._check(value)
        return value

    def per_example_gradients(self) -> dict[str, Tensor]:
        """Layer name -> (b, h): the derivative of each example's own loss by its own gates, at the gates' one.

        The loss is a mean over b examples, so an example's own derivative is b times that of the mean.
        """
        value = self.loss(per_example=True)
        gates = self.example_gates
        gradients = self.gradients(value, gates)
        return {name: gradient * self.examples for name, gradient in gradients.items()}

    def gradients(self, value: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The derivative of the loss `value` by each of the inputs; zero for a layer the loss does not see.

        Raises:
            CalibrationError: the loss depends on none of them.
        """
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if value.requires_grad:
            found = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
        if all(gradient is None for gradient in found):
            raise CalibrationError(
                f"batch {self._number}: the loss has no gradient with respect to any attention head; it must be "
                "differentiable and depend on the model's output (is it detached, or computed under no_grad?)"
            )
        return {
            name: torch.zeros_like(given) if gradient is None else gradient
            for (name, given), gradient in zip(inputs.items(), found, strict=True)
        }

    def _observe(self, layer: AttentionLayer, per_example: bool) -> Callable[[Tensor], Tensor]:
        def observe(context: Tensor) -> Tensor:
            self.examples = len(context)
            if not per_example:
                return context
            if layer.name not in self.example_gates:
                ones = torch.ones(len(context), layer.num_heads, dtype=context.dtype, device=context.device)
                self.example_gates[layer.name] = ones.requires_grad_()
            return scale(context, layer, self.example_gates[layer.name])

        return observe

    def _check(self, value: Any) -> None:
        if not isinstance(value, Tensor) or value.numel() != 1:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise CalibrationError(
                f"batch {self._number}: expected loss(model, batch) to be a scalar tensor, the mean over the "
                f"batch's examples, got {came}"
            )
        if self._calibration.with_heads and self.examples == 0:
            raise CalibrationError(
                f"batch {self._number}: computing the loss ran none of the model's attention layers on any "
                "example; it must call the model that it is given, on a batch that is not empty"
            )
        if not value.isfinite():
            raise CalibrationError(
                f"batch {self._number}: the loss is {value.item()}; look for NaN or infinite values in the "
                "batch or in the model's weights"
            )


@contextmanager
def at_rest(model: nn.Module, seed: int) -> Iterator[None]:
    """Eval mode, gradients enabled, seeded random numbers; on leaving, everything is as it was."""
    with torch.random.fork_rng(), torch.enable_grad(), eval_mode(model):
        torch.manual_seed(seed)
        yield
