"""Iterative and greedy scoring: remove a few heads, score what is left again, and so on."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mha.importance.running.calibration import Calibration
from mha.importance.running.scored import Scored
from mha.pruning.masking import masked
from mha.values.errors import CalibrationError
from mha.values.plan import HeadPlan

Place = tuple[str, int]


def in_rounds(calibration: Calibration, scores: Callable[[Calibration], Mapping[str, Tensor]], rounds: int) -> Scored:
    """The order in which heads leave: 0 for the first. The plans that it ranks are nested.

    Removed heads are masked, so any set may leave, also one that grouped attention could not be sliced to. Heads of
    one round leave in the order of their scores.

    Args:
        scores: a criterion's scores of the heads that are there, and whatever it says of the masked ones.

    Raises:
        CalibrationError: not 1 to as many rounds as there are heads.
    """
    places = calibration.present()
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= max(len(places), 1):
        raise CalibrationError(f"rounds is a number from 1 to {len(places)}, that of the heads; got {rounds!r}")
    order: list[Place] = []
    for number in range(1, rounds + 1):
        order += _worst(calibration, scores, order, number * len(places) // rounds - len(order))
    rank = {place: position for position, place in enumerate(order)}
    return Scored(
        {
            name: torch.tensor([rank[name, head] for head in range(layer.num_heads)], dtype=torch.float64)
            for name, layer in calibration.layers.items()
        }
    )


def _worst(
    calibration: Calibration, scores: Callable[[Calibration], Mapping[str, Tensor]], gone: list[Place], count: int
) -> list[Place]:
    """The `count` heads with the lowest scores when those gone are masked, the lowest first."""
    removed = {name: [head for layer, head in gone if layer == name] for name in calibration.layers}
    left = replace(calibration, removed=removed)
    present = left.present()
    if len(present) == 1:
        return present
    kept = {
        name: [layer.heads[head] for head in range(layer.num_heads) if head not in removed[name]]
        for name, layer in calibration.layers.items()
        if removed[name]
    }

    def found() -> dict[str, list[float]]:
        with masked(calibration.model, HeadPlan(kept)):
            return {name: [float(value) for value in row] for name, row in scores(left).items()}

    rows = calibration.journal.get(left.key("scores"), found)
    return sorted(present, key=lambda place: float(rows[place[0]][place[1]]))[:count]
