"""Gradients with respect to gates on the heads, one gate per token, per example or per batch.

∂L/∂ξ_h = ⟨c_h, ∂L/∂c_h⟩ for a gate ξ_h = 1 on the context c_h. L is a mean over the b examples of a batch, so what is
an example's own, or a token's, is b times that: scores depend neither on the batch's size nor on how examples are
batched, and a short last batch has no more weight than its examples.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from mha.families import AttentionLayer
from mha.importance.running.calibration import Calibration, Pass
from mha.importance.running.examples import first_half
from mha.pruning.masking import scale
from mha.values.errors import CalibrationError

Unit = Literal["token", "example", "batch"]
Statistic = Callable[[Tensor, int], Tensor]

UNITS: tuple[Unit, ...] = get_args(Unit)
# By how much, relative to its norm, an example's gradient may depend on the batch it is in: rounding.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
ROUGH = 0.2  # in half precision


def mean_over_units(calibration: Calibration, unit: Unit, statistic: Statistic) -> tuple[dict[str, Tensor], int]:
    """Layer name -> the mean over examples of a statistic of the gates' gradients; and how many examples there are.

    An example counts by the sum over its tokens, where the unit is the token; a batch counts for all its examples.

    Args:
        statistic: of gradients (units, h), each of so many examples, the sum over the units: (h,) or (h, h).

    Raises:
        CalibrationError: an unknown unit, or one that the model's layout or the loss does not allow.
    """
    if unit not in UNITS:
        raise CalibrationError(f"unit is one of {', '.join(UNITS)}; got {unit!r}")
    calibration.expect(1)
    total = {
        name: torch.zeros_like(statistic(torch.zeros(1, layer.num_heads, dtype=torch.float64), 1))
        for name, layer in calibration.layers.items()
    }
    examples = 0
    for one in calibration.passes():
        gradients = gate_gradients(one, unit)
        if one.number == 0 and unit == "example":
            _check_decomposes(one, gradients)
        weight, count = (one.examples, one.examples) if unit == "batch" else (1, 1)
        for name, rows in gradients.items():
            total[name] += weight * statistic(rows, count)
        examples += one.examples
    return {name: rows / examples for name, rows in total.items()}, examples


def gate_gradients(one: Pass, unit: Unit) -> dict[str, Tensor]:
    """Layer name -> (units, h) in float64: the derivative of each unit's own loss by its own gates, all of them 1.

    A layer that runs several times has the same gates each time; tokens have their own each time.

    Raises:
        CalibrationError: `unit` is "example" and a layer's context does not have the examples first.
    """
    gates: dict[str, list[Tensor]] = {}

    def change(layer: AttentionLayer, context: Tensor) -> Tensor:
        shape = {"token": context.shape[:-1], "example": context.shape[:1], "batch": ()}[unit]
        known = gates.setdefault(layer.name, [])
        fitting = [gate for gate in known if gate.shape[:-1] == shape and unit != "token"]
        if not fitting:
            ones = torch.ones(*shape, layer.num_heads, dtype=context.dtype, device=context.device)
            known.append(ones.requires_grad_())
        return scale(context, layer, fitting[0] if fitting else known[-1])

    with one.run(change=change) as value:
        if unit == "example":
            _check_rows(one)
        ran = {name: list(rows) for name, rows in gates.items()}  # a run again during the backward pass adds none
        found = one.gradients(
            value, {f"{name} {number}": gate for name, rows in ran.items() for number, gate in enumerate(rows)}
        )
    own = 1 if unit == "batch" else one.examples
    return {
        name: own
        * torch.cat([found[f"{name} {number}"].reshape(-1, gate.shape[-1]) for number, gate in enumerate(rows)]).to(
            "cpu", torch.float64
        )
        for name, rows in ran.items()
    }


def _check_rows(one: Pass) -> None:
    for name, rows in one.rows.items():
        if rows != {one.examples}:
            raise CalibrationError(
                f"layer {name!r}: the first dimension of its context is {sorted(rows)}, but batch {one.number} has "
                f"{one.examples} examples (windows, or another layout?), so no gate can be put on each example: use "
                'unit="batch" or unit="token", or say examples=, if the number is wrong'
            )


def _check_decomposes(one: Pass, whole: dict[str, Tensor]) -> None:
    """Compare the gradients of the first half of the examples with those that they have in the whole batch.

    They may differ by a factor, as where a loss is a mean over tokens and not over examples. A batch that can't be cut
    in half (see `first_half`) can't be checked.
    """
    batch = first_half(one.batch, one.examples)
    if batch is None:
        return
    part = one.half(batch)
    try:
        alone = gate_gradients(part, "example")
    except Exception as error:  # whatever the caller's loss raises
        raise CalibrationError(
            f"the loss fails on the first half of batch {one.number} ({error}), so it does not decompose over "
            'examples: use unit="batch", or unit="token"'
        ) from error
    together = torch.cat([whole[name][: part.examples].flatten() for name in alone])
    apart = torch.cat([rows.flatten() for rows in alone.values()])
    factor = together @ apart / (apart @ apart) if apart.any() else 0.0
    difference = (together - factor * apart).norm() / together.norm() if together.any() else torch.zeros(())
    dtype = next((p.dtype for p in one.model.parameters() if p.is_floating_point()), torch.float32)
    if difference > TOLERANCE.get(dtype, ROUGH):
        raise CalibrationError(
            f"an example's gradient depends on which others are in its batch (by {float(difference):.2g} of its "
            "norm), so the loss does not decompose over examples, as an in-batch contrastive loss does not, or it "
            'draws random numbers: use unit="batch", or unit="token"'
        )
