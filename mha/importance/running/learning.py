"""Gates that are learned while the model is frozen."""

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
    """Minimise the loss over logits by Adam, the heads multiplied by the gates that they give; the logits reached.

    Args:
        start: layer name -> (h,).
        gates: (logits, progress) -> layer name -> (h,), differentiable; progress goes from 0 to 1 over the epochs.
        settle: changes the logits in place after every step.

    Raises:
        CalibrationError: epochs or a learning rate out of range.
    """
    if epochs < 0 or not learning_rate > 0:
        raise CalibrationError(f"epochs is 0 or more and learning_rate above 0, got {epochs} and {learning_rate}")
    logits = {name: row.clone().requires_grad_() for name, row in start.items()}
    adam = Adam(logits, learning_rate)
    calibration.expect(epochs)
    for epoch in range(epochs):
        progress = epoch / max(epochs - 1, 1)
        for one in calibration.passes():
            with one.run(gates(logits, progress)) as value:
                gradients = one.gradients(value, logits)
            with torch.no_grad():
                adam.step(gradients)
                if settle is not None:
                    settle(logits, progress)
    return {name: row.detach() for name, row in logits.items()}


class Adam:
    """Algorithm 1 of Kingma and Ba (2015), with its defaults.

    torch's own imports its compiler when first used, which takes longer than learning a few dozen gates.
    """

    def __init__(self, parameters: Mapping[str, Tensor], learning_rate: float) -> None:
        self._parameters = parameters
        self._rate = learning_rate
        self._steps = 0
        self._first = {name: torch.zeros_like(row) for name, row in parameters.items()}
        self._second = {name: torch.zeros_like(row) for name, row in parameters.items()}

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Change the parameters in place."""
        self._steps += 1
        for name, gradient in gradients.items():
            first = self._first[name].lerp_(gradient, 1 - 0.9)
            second = self._second[name].lerp_(gradient.square(), 1 - 0.999)
            mean, square = first / (1 - 0.9**self._steps), second / (1 - 0.999**self._steps)
            self._parameters[name].sub_(self._rate * mean / (square.sqrt() + 1e-8))


def target(calibration: Calibration, heads: int | None) -> int:
    """How many heads are to be left: half of those there are, unless told.

    Raises:
        CalibrationError: not from 1 to one less than there are.
    """
    total = len(calibration.present())
    if heads is None:
        return max(1, total // 2)
    if calibration.removed:
        return min(heads, max(1, total - 1))
    if isinstance(heads, bool) or not isinstance(heads, int) or not 1 <= heads < total:
        raise CalibrationError(f"heads is how many of the {total} heads to leave, from 1 to {total - 1}; got {heads!r}")
    return heads


def of_layers(calibration: Calibration, row: Tensor, absent: float) -> dict[str, Tensor]:
    """Layer name -> (h,), from a number for each head that is present, (n,); masked heads get `absent`."""
    positions: dict[tuple[str, int], int] = {place: number for number, place in enumerate(calibration.present())}
    padded = torch.cat([row, row.new_full((1,), absent)])
    return {
        name: padded[[positions.get((name, head), len(row)) for head in range(layer.num_heads)]]
        for name, layer in calibration.layers.items()
    }
