"""Gradients with respect to gates on the heads, one gate per token, per example or per batch.

∂L/∂ξ_h = ⟨c_h, ∂L/∂c_h⟩ for a gate ξ_h = 1 on the context c_h. L is a mean over the b examples of a batch, so the
gradient of an example's own loss, or a token's part of it, is b times that. With it, scores depend neither on the
batch's size nor on how examples are batched, and a short last batch has no more weight than its examples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from mha.families import AttentionLayer
from mha.importance.running.batch import BatchLoss, CalibrationBatch
from mha.importance.running.calibration import Calibration, Sums, added
from mha.importance.running.examples import first_half
from mha.pruning.masking import scale
from mha.values.errors import CalibrationError

Unit = Literal["token", "example", "batch"]
UnitStatistic = Callable[[Tensor, int], Tensor]

UNITS: tuple[Unit, ...] = get_args(Unit)
# By how much, relative to its norm, an example's gradient may depend on the batch it is in: rounding.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
ROUGH = 0.2  # in half precision


@dataclass(frozen=True)
class GateGradients:
    """The gradients of one batch with respect to its gates.

    Attributes:
        rows: layer name -> (units, h) in float64, a row for each token, for each example, or one for the batch.
        examples: how many examples the batch has.
    """

    rows: Mapping[str, Tensor]
    examples: int


def mean_over_units(calibration: Calibration, unit: Unit, statistic: UnitStatistic) -> tuple[dict[str, Tensor], int]:
    """Layer name -> the mean over examples of a statistic of the gates' gradients; and how many examples there are.

    An example counts by the sum over its tokens, where the unit is the token; a batch counts for all its examples.

    Args:
        unit: what has gates, and so a gradient, of its own.
        statistic: (gradients (units, h), how many examples a unit has) -> a sum over the units, (h,) or (h, h).

    Raises:
        CalibrationError: an unknown unit; "example" where a layer's context does not have the examples first, or where
            an example's gradient depends on the others in its batch; or a loss that can't be differentiated.
    """
    if unit not in UNITS:
        raise CalibrationError(f"unit is one of {', '.join(UNITS)}; got {unit!r}")
    calibration.expect(1)
    sums = calibration.summed(_UnitSums(unit, statistic))
    return {name: rows / sums.examples for name, rows in sums.total.items()}, sums.examples


@dataclass
class _UnitSums(Sums):
    """The sums over units of a statistic of the gates' gradients.

    Attributes:
        unit, statistic: as in `mean_over_units`.
        total: layer name -> the sum, each example counted once.
        examples: how many there are.
    """

    unit: Unit
    statistic: UnitStatistic
    total: dict[str, Tensor] = field(default_factory=dict)
    examples: int = 0

    def add(self, calibration: Calibration, batch: CalibrationBatch) -> None:
        gradients = gate_gradients(batch, self.unit)
        if batch.number == 0 and self.unit == "example":
            _check_decomposes(batch, gradients)
        weight = count = gradients.examples if self.unit == "batch" else 1
        for name, layer in calibration.layers.items():
            rows = gradients.rows.get(name, torch.zeros(0, layer.num_heads, dtype=torch.float64))
            here = weight * self.statistic(rows, count)
            self.total[name] = self.total[name] + here if name in self.total else here
        self.examples += gradients.examples

    def __add__(self, other: Self) -> Self:
        return replace(self, total=added(self.total, other.total), examples=self.examples + other.examples)


def gate_gradients(batch: CalibrationBatch, unit: Unit) -> GateGradients:
    """The derivative of each unit's own loss by its own gates, all of them 1.

    A token's own loss is its part of the example's. A layer that runs several times has the same gates each time, save
    for the unit "token": then every run has further ones.

    Raises:
        CalibrationError: `unit` is "example" and a layer's context does not have the examples first; or the loss can't
            be differentiated.
    """
    gates: dict[str, list[Tensor]] = {}

    def change(layer: AttentionLayer, context: Tensor) -> Tensor:
        """Multiply the context by gates of 1: the layer's earlier ones if they have the right shape, else new ones."""
        shape = {"token": context.shape[:-1], "example": context.shape[:1], "batch": ()}[unit]
        known = gates.setdefault(layer.name, [])
        fitting = [gate for gate in known if gate.shape[:-1] == shape and unit != "token"]
        if not fitting:
            ones = torch.ones(*shape, layer.num_heads, dtype=context.dtype, device=context.device)
            known.append(ones.requires_grad_())
        return scale(context, layer, fitting[0] if fitting else known[-1])

    with batch.run(change=change) as loss:
        if unit == "example":
            _check_rows(batch, loss)
        ran = {name: list(rows) for name, rows in gates.items()}  # a run again during the backward pass adds none
        derivatives = batch.gradients(
            loss, {f"{name} {number}": gate for name, rows in ran.items() for number, gate in enumerate(rows)}
        )
    own = 1 if unit == "batch" else loss.examples
    rows = {
        name: torch.cat([derivatives[f"{name} {number}"].reshape(-1, gate.shape[-1]) for number, gate in enumerate(gs)])
        for name, gs in ran.items()
    }
    return GateGradients({name: own * row.to("cpu", torch.float64) for name, row in rows.items()}, loss.examples)


def _check_rows(batch: CalibrationBatch, loss: BatchLoss) -> None:
    """Check that the context of every layer has the examples in its first dimension.

    Raises:
        CalibrationError: the context of some layer has not.
    """
    for name, rows in loss.rows.items():
        if rows != {loss.examples}:
            raise CalibrationError(
                f"layer {name!r}: the first dimension of its context is {sorted(rows)}, but batch {batch.number} has "
                f"{loss.examples} examples (windows, or another layout?), so no gate can be put on each example: use "
                'unit="batch" or unit="token", or say examples=, if the number is wrong'
            )


def _check_decomposes(batch: CalibrationBatch, whole: GateGradients) -> None:
    """Check that the first half of the batch's examples have the same gradients alone as in the whole batch.

    All may differ by one factor, as where a loss is a mean over tokens and not over examples. A batch that can't be cut
    in half (see `first_half`) is not checked.

    Raises:
        CalibrationError: the gradients differ by more, or the loss fails on the half.
    """
    half = first_half(batch.content, whole.examples)
    if half is None:
        return
    try:
        alone = gate_gradients(batch.holding(half), "example")
    except Exception as error:  # whatever the caller's loss raises
        raise CalibrationError(
            f"the loss fails on the first half of batch {batch.number} ({error}), so it does not decompose over "
            'examples: use unit="batch", or unit="token"'
        ) from error
    together = torch.cat([whole.rows[name][: alone.examples].flatten() for name in alone.rows])
    apart = torch.cat([rows.flatten() for rows in alone.rows.values()])
    factor = together @ apart / (apart @ apart) if apart.any() else 0.0
    difference = (together - factor * apart).norm() / together.norm() if together.any() else torch.zeros(())
    dtype = next((p.dtype for p in batch.model.parameters() if p.is_floating_point()), torch.float32)
    if difference > TOLERANCE.get(dtype, ROUGH):
        raise CalibrationError(
            f"an example's gradient depends on which others are in its batch (by {float(difference):.2g} of its "
            "norm), so the loss does not decompose over examples, as an in-batch contrastive loss does not, or it "
            'draws random numbers: use unit="batch", or unit="token"'
        )
