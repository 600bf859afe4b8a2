"""Gates on the heads that are learned by gradient descent while the model is frozen."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mha.importance.running.calibration import Calibration
from mha.values.errors import CalibrationError

Logits = dict[str, Tensor]


def learn(
    calibration: Calibration,
    start: Mapping[str, Tensor],
    gates: Callable[[Logits, float], Mapping[str, Tensor]],
    *,
    epochs: int,
    learning_rate: float,
    settle: Callable[[Logits, float], None] | None = None,
) -> Logits:
    """The logits that minimise the loss when every head is multiplied by the gate that they give it; by Adam.

    Args:
        start: the logits to start from: layer name -> (h,), or any other names that `gates` and `settle` know.
        gates: (logits, progress) -> layer name -> (h,), differentiable; progress goes from 0 to 1 over the epochs.
        settle: (logits, progress) changes the logits in place after every step.

    Raises:
        CalibrationError: `epochs` is below 0, or `learning_rate` not above 0; or the loss can't be computed, or not be
            differentiated by the gates.
    """
    if epochs < 0 or not learning_rate > 0:
        raise CalibrationError(f"epochs is 0 or more and learning_rate above 0, got {epochs} and {learning_rate}")
    logits = {name: row.clone().requires_grad_() for name, row in start.items()}
    adam = Adam(logits, learning_rate)
    calibration.expect(epochs)
    for epoch in range(epochs):
        progress = epoch / max(epochs - 1, 1)
        for batch in calibration.each_batch():
            with batch.run(gates(logits, progress)) as loss:
                gradients = batch.gradients(loss, logits)
            with torch.no_grad():
                adam.step(gradients)
                if settle is not None:
                    settle(logits, progress)
    return {name: row.detach() for name, row in logits.items()}


class Adam:
    """The optimizer Adam, algorithm 1 of Kingma and Ba (2015), with the paper's β₁, β₂ and ε.

    `torch.optim.Adam` imports torch's compiler when first used, which takes longer than learning a few dozen gates.

    Args:
        parameters: name -> the tensor that `step` changes in place.
    """

    def __init__(self, parameters: Mapping[str, Tensor], learning_rate: float) -> None:
        self._parameters = parameters
        self._rate = learning_rate
        self._steps = 0
        self._first = {name: torch.zeros_like(row) for name, row in parameters.items()}
        self._second = {name: torch.zeros_like(row) for name, row in parameters.items()}

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Change the parameters in place, by one step against these gradients, which have the parameters' names."""
        self._steps += 1
        for name, gradient in gradients.items():
            first = self._first[name].lerp_(gradient, 1 - 0.9)
            second = self._second[name].lerp_(gradient.square(), 1 - 0.999)
            mean, square = first / (1 - 0.9**self._steps), second / (1 - 0.999**self._steps)
            self._parameters[name].sub_(self._rate * mean / (square.sqrt() + 1e-8))


def target(calibration: Calibration, heads: int | None) -> int:
    """How many heads are to be left: `heads`, or half of those that are not masked if it is None.

    While heads are removed in rounds, it is at most one less than those that are not masked yet, but 1 at least.

    Raises:
        CalibrationError: outside of rounds, `heads` is no whole number from 1 to one less than there are.
    """
    total = len(calibration.present())
    if heads is None:
        return max(1, total // 2)
    if calibration.removed:
        return min(heads, max(1, total - 1))
    if isinstance(heads, bool) or not isinstance(heads, int) or not 1 <= heads < total:
        raise CalibrationError(f"heads is how many of the {total} heads to leave, from 1 to {total - 1}; got {heads!r}")
    return heads
