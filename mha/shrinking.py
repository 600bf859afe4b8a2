"""From a trained model to a smaller one in one call: score, choose, prune, repair."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mha.compensation import compensate
from mha.distillation import relative_error
from mha.errors import CalibrationError, SlowPlanWarning
from mha.families import find_attention
from mha.heads import HeadScores
from mha.importance import score
from mha.importance.calibration import Loss
from mha.masking import eval_mode
from mha.planning import choose
from mha.pruning import prune
from mha.resolving import resolved_scores
from mha.streams import Forward

Distance = Callable[[Any, Any], Tensor]
ROUNDS = 4
JUDGED = 4  # batches on which every head is left out, evenly spaced
BUDGETS = ("keep", "heads", "latency", "flops", "parameters")


def shrink(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss | None,
    forward: Forward,
    *,
    criterion: str | None = None,
    rounds: int = ROUNDS,
    distance: Distance | None = None,
    seed: int = 0,
    **budget: Any,
) -> nn.Module:
    """A smaller model within the budget, repaired on the calibration data; nothing is trained.

    Heads leave in rounds. Each scores every head that is left by how far the model's outputs move away from the dense
    ones when the head leaves and its layer's output projection is solved again without it; then the plan for
    the round's budget is chosen and cut out of the dense model, and what is left is fitted to the dense one by least
    squares (`mha.compensate`). Scores need no labels. The model itself is left as it was.

    With a `criterion` that scores the heads instead, once, and the rest follows.

    Args:
        batches: calibration batches, read once, and held. Heads are scored on four of them, and fitted on all.
        loss: (model, batch) -> scalar, the mean over the batch's examples; only a criterion needs it.
        forward: (model, batch) runs the model and returns what matters of its output; labels are not needed.
        criterion: one of `mha.criteria()`, or "default".
        rounds: the budget shrinks by the same factor in each; 1 scores the dense model only.
        distance: (what forward returns, what it returns for the dense model) -> scalar, such as a KL divergence.
            By default the mean squared error of every floating tensor, as a share of the dense one's mean square.
        seed: for criteria that draw at random.
        budget: exactly one of those of `mha.choose` (`keep=0.5`, say), and with it `costs` or `min_heads` if wanted.

    Raises:
        CalibrationError, ScoresError, PlanError, UnsupportedModule: as `mha.score`, `mha.choose`, `mha.prune` and
            `mha.compensate`.
        TypeError: a keyword that `mha.choose` does not have.
    """
    _check_budget(model, budget)
    held = list(batches or ())
    if not held:
        raise CalibrationError("the calibration set is empty: expected at least one batch")
    if rounds < 1:
        raise CalibrationError(f"rounds must be at least 1, got {rounds}")
    if criterion is not None:
        scores = score(model, held, loss, criterion, seed=seed)
        return compensate(prune(model, choose(scores, model=model, **budget)), model, held, forward)
    return _in_rounds(model, held, forward, rounds, distance or relative_error, budget)


def _in_rounds(
    model: nn.Module,
    batches: Sequence[Any],
    forward: Forward,
    rounds: int,
    distance: Distance,
    budget: Mapping[str, Any],
) -> nn.Module:
    with torch.random.fork_rng(), eval_mode(model), torch.no_grad():
        judged = [(batch, forward(model, batch)) for batch in batches[:: max(1, len(batches) // JUDGED)][:JUDGED]]

    def measure(small: nn.Module, part: tuple[Any, Any]) -> float:
        batch, dense = part
        return distance(forward(small, batch), dense).item()

    small = model
    for number in range(1, rounds + 1):
        last = number == rounds
        with torch.random.fork_rng(), warnings.catch_warnings():
            if not last:
                warnings.simplefilter("ignore", SlowPlanWarning)  # about a plan on the way
            scores = _of_all(model, resolved_scores(small, batches, forward, measure, judged))
            plan = choose(scores, model=model, **_on_the_way(budget, number / rounds, len(scores)))
        small = compensate(prune(model, plan), model, batches, forward, scope="stream" if last else "attention")
    return small


def _of_all(model: nn.Module, scores: HeadScores) -> HeadScores:
    """Scores for all heads of the model: those that have left come back last."""
    values = [0.0, *(value for row in scores.scores.values() for value in row.tolist())]
    lowest = min(values) - (max(values) - min(values)) - 1.0
    layers = find_attention(model)
    rows = {}
    for name, layer in layers.items():
        known = dict(zip(scores.heads[name], scores.scores[name].tolist(), strict=True))
        rows[name] = torch.tensor([known.get(head, lowest) for head in layer.heads], dtype=torch.float64)
    return HeadScores(
        rows,
        groups={name: layer.num_kv_heads for name, layer in layers.items()},
        heads={name: layer.heads for name, layer in layers.items()},
    )


def _on_the_way(budget: Mapping[str, Any], share: float, heads: int) -> dict[str, Any]:
    """The budget when this share of the rounds is over: down by equal factors, at last the budget itself."""
    found = dict(budget)
    for name in BUDGETS:
        if share < 1 and (target := budget.get(name)) is not None:
            whole = heads if name == "heads" else 1.0
            value = whole * (target / whole) ** share if target > 0 else whole * (1 - share)
            found[name] = round(value) if name == "heads" else value
    return found


def _check_budget(model: nn.Module, budget: Mapping[str, Any]) -> None:
    """Refuse a budget that can't be met before scores are computed, which may take long: any scores tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPlanWarning)  # it would be about other scores
        choose(score(model, None, None, "random"), model=model, **budget)
