"""What the loss rises by when the head leaves and the output projection is solved again for the others.

The optimal brain surgeon for whole heads, as OSSCAR (Meng et al. 2024) and ZipLM (Kurtić et al. 2023) have it, in the
currency of the loss: by its curvature as in K-FAC (Martens and Grosse 2015).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer
from mha.families.base.linears import weight_of
from mha.importance.registry import register_criterion
from mha.importance.running.batch import CalibrationBatch
from mha.importance.running.calibration import Calibration, Sums, added
from mha.importance.running.removal import Slopes, removal_costs
from mha.runtime.undoing import hooked
from mha.values.layout import owners


@register_criterion("reconstruction", needs="gradients", additive=True)
def reconstruction(calibration: Calibration) -> dict[str, Tensor]:
    """What the loss rises by, to second order, when the head leaves and its layer's output projection is solved again.

    That is ½ tr(G ΔW A ΔWᵀ), with ΔW the best change of the projection that does without the head, A = Σ |g|² x xᵀ and
    G = Σ g gᵀ / Σ |g|² over the tokens, x what the projection reads and g the gradient by what it puts out.
    Heads of a layer leave one after the other, the cheapest first; a head's score is what it adds to that. One pass
    with gradients tells it for every number of heads. It is the criterion for models that are repaired afterwards
    (`mha.compensate`). Tokens are taken for independent, and padding that the loss does not see does not count.

    Raises:
        CalibrationError: a loss that can't be differentiated.
    """
    calibration.expect(1)
    sums = calibration.summed(_SlopeSums())
    scores = calibration.zeros()
    for name, of_layer in sums.slopes.items():
        scores[name] = costs_in(calibration.layers[name], of_layer) / sums.examples
    return scores


@dataclass
class _SlopeSums(Sums):
    """The sums that costs follow from.

    Attributes:
        slopes: layer that ran -> the sums over its tokens.
        examples: how many examples there are.
    """

    slopes: dict[str, Slopes] = field(default_factory=dict)
    examples: int = 0

    def add(self, calibration: Calibration, batch: CalibrationBatch) -> None:
        layers = calibration.with_heads
        with _noted(layers) as runs, batch.run() as loss:
            seen = list(runs)  # a model that checkpoints its activations runs again for the gradients
            outputs = {f"{name}, run {number}": output for number, (name, _, output) in enumerate(seen)}
            gradients = batch.gradients(loss, outputs)
            for (name, read, _), gradient in zip(seen, gradients.values(), strict=True):
                _slopes_of(self.slopes, name, layers[name]).add(read, gradient * loss.examples)
        self.examples += loss.examples

    def __add__(self, other: Self) -> Self:
        return type(self)(added(self.slopes, other.slopes), self.examples + other.examples)


def costs_in(layer: AttentionLayer, slopes: Slopes) -> Tensor:
    """The cost (h,) of each of the layer's heads, summed over the tokens that are in `slopes`."""
    owner = owners(layer.context_axis, layer.sizes).to(slopes.inputs.device)
    intercept = layer.output._parameters.get("bias") is not None
    return removal_costs(slopes, weight_of(layer.output), owner, intercept=intercept)


@contextmanager
def _noted(layers: Mapping[str, AttentionLayer]) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Within the context each run of an output projection is noted: the layer's name, what it reads and puts out."""
    runs: list[tuple[str, Tensor, Tensor]] = []

    def note(name: str, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_()
        runs.append((name, args[0], output))
        return output

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hook: Callable[..., Tensor] = partial(note, name)
            hooks.enter_context(hooked(layer.output, hook))
        yield runs


def _slopes_of(slopes: dict[str, Slopes], name: str, layer: AttentionLayer) -> Slopes:
    """The sums of this layer, begun with its first run."""
    if name not in slopes:
        outputs, inputs = weight_of(layer.output).shape
        slopes[name] = Slopes.zero(inputs, outputs, weight_of(layer.output).device)
    return slopes[name]
