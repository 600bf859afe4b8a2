"""From a trained model to a smaller one in one call: score, choose, prune, repair."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from mha.compensation import compensate
from mha.errors import SlowPlanWarning
from mha.importance import score
from mha.importance.calibration import Loss
from mha.planning import choose
from mha.pruning import prune
from mha.streams import Forward


def shrink(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    forward: Forward,
    *,
    criterion: str = "default",
    seed: int = 0,
    **budget: Any,
) -> nn.Module:
    """A smaller model within the budget, repaired on the calibration data; nothing is trained.

    Heads are scored by the criterion, the best plan within the budget is chosen and cut out, and what is left is fitted
    to the dense model by least squares (`mha.compensate`). The model itself is left as it was.

    Args:
        batches: calibration batches, anything that can be read more than once.
        loss: (model, batch) -> scalar, the mean over the batch's examples.
        forward: (model, batch) runs the model and returns what matters of its output; labels are not needed.
        criterion: how heads are scored, one of `mha.criteria()`.
        seed: for criteria that draw at random.
        budget: exactly one of those of `mha.choose` (`keep=0.5`, say), and with it `costs` or `min_heads` if wanted.

    Raises:
        CalibrationError, ScoresError, PlanError, UnsupportedModule: as `mha.score`, `mha.choose`, `mha.prune` and
            `mha.compensate`.
        TypeError: a keyword that `mha.choose` does not have.
    """
    _check_budget(model, budget)
    scores = score(model, batches, loss, criterion, seed=seed)
    pruned = prune(model, choose(scores, model=model, **budget))
    return compensate(pruned, model, batches, forward)


def _check_budget(model: nn.Module, budget: Mapping[str, Any]) -> None:
    """Refuse a budget that can't be met before scores are computed, which may take long: any scores tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPlanWarning)  # it would be about other scores
        choose(score(model, None, None, "random"), model=model, **budget)
