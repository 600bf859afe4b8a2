"""Iterative and greedy scoring: remove a few heads, score what is left again, and so on."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mha.importance.running.calibration import Calibration
from mha.importance.running.scored import Scored
from mha.pruning.masking import masked
from mha.values.errors import CalibrationError
from mha.values.plan import HeadPlan

Place = tuple[str, int]  # the name of a layer, and the position of a head in it
Scoring = Callable[[Calibration], Mapping[str, Tensor]]


def in_rounds(calibration: Calibration, score: Scoring, rounds: int, *, comparable: bool = True) -> Scored:
    """Remove heads in rounds, and return the order in which they leave as scores: 0 for the first.

    Removed heads are masked, so any set may leave, also one that grouped attention could not be sliced to. Heads of
    one round leave in the order of their scores.

    Args:
        score: calibration -> layer name -> (h,), a criterion's scores; those of masked heads are ignored.
        rounds: how many rounds there are, of as nearly the same number of heads as possible.
        comparable: whether scores of different layers are in one currency. If not, heads are ranked within their
            layers, as `mha.choose` ranks them, and every layer gives about its share in every round.

    Raises:
        CalibrationError: `rounds` is not from 1 to the number of heads.
    """
    places = calibration.present()
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= max(len(places), 1):
        raise CalibrationError(f"rounds is a number from 1 to {len(places)}, that of the heads; got {rounds!r}")
    order: list[Place] = []
    for number in range(1, rounds + 1):
        scores = _scores(calibration, score, order)
        lowest = sorted(scores, key=(scores if comparable else _within_layers(scores, places)).__getitem__)
        order += lowest[: number * len(places) // rounds - len(order)]
    rank = {place: number for number, place in enumerate(order)}
    return Scored(
        {
            name: torch.tensor([rank[name, position] for position in range(layer.num_heads)], dtype=torch.float64)
            for name, layer in calibration.layers.items()
        }
    )


def _scores(calibration: Calibration, score: Scoring, gone: list[Place]) -> dict[Place, float]:
    """The scores of the heads that are left while the heads in `gone` are masked; of a single one there is no need."""
    removed = {name: [position for layer, position in gone if layer == name] for name in calibration.layers}
    remaining = calibration.without(removed)
    present = remaining.present()
    if len(present) == 1:
        return dict.fromkeys(present, 0.0)
    kept = {
        name: [head for position, head in enumerate(layer.heads) if position not in removed[name]]
        for name, layer in calibration.layers.items()
        if removed[name]
    }

    def scores() -> dict[str, list[float]]:
        """Layer name -> the scores of its heads while the removed ones are masked, as plain numbers for the journal."""
        with masked(calibration.model, HeadPlan(kept)):
            return {name: [float(value) for value in row] for name, row in score(remaining).items()}

    rows = calibration.journal.get(remaining.key("scores"), scores)
    return {(name, position): float(rows[name][position]) for name, position in present}


def _within_layers(scores: Mapping[Place, float], places: Sequence[Place]) -> dict[Place, float]:
    """For each head that is left, which share of its layer's heads is gone once it has left in the layer's order.

    Args:
        scores: of the heads that are left.
        places: all heads, also those that are gone.
    """
    total, left = Counter(name for name, _ in places), Counter(name for name, _ in scores)
    shares = {}
    gone = {name: total[name] - left[name] for name in total}
    for name, position in sorted(scores, key=scores.__getitem__):
        gone[name] += 1
        shares[name, position] = gone[name] / total[name]
    return shares
