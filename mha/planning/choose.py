"""Scores and a budget become a plan."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mha.costs import CostTable
from mha.families import AttentionMap, find_attention
from mha.planning.charges import QUANTITIES, Charges
from mha.planning.exchange import rearranged
from mha.planning.feasible import Choice
from mha.planning.programme import Programme
from mha.planning.runtimes import terms_of
from mha.planning.terms import Terms
from mha.planning.tied_layers import ties_of
from mha.values.errors import PlanError, ScoresError, SlowPlanWarning
from mha.values.plan import HeadPlan, HeadScores


def choose(
    scores: HeadScores,
    *,
    model: nn.Module | None = None,
    keep: float | None = None,
    heads: int | None = None,
    latency: float | None = None,
    flops: float | None = None,
    parameters: float | None = None,
    costs: CostTable | None = None,
    min_heads: int | Mapping[str, int] = 0,
    uniform: bool = False,
    multiple_of: int = 1,
    whole_groups: bool = False,
    runs_on: str | None = None,
    across_layers: bool | None = None,
) -> HeadPlan:
    """The feasible plan within the budget whose kept heads have the largest total score.

    Give exactly one budget; the problem is solved exactly. `keep` and `heads` are counts: the plan has the largest
    feasible size not above them, whatever the scores. `latency`, `flops` and `parameters` are limits on the whole
    model: a head with a negative score leaves even where it could stay, and of plans with the same score one with most
    heads is taken, so that no head leaves where that saves nothing. In grouped attention every surviving key/value
    group of a layer keeps the same number of query heads. The plan names every scored layer. What else is asked of it
    (`min_heads`, `uniform`, `multiple_of`, `whole_groups`) combines with every budget, is met as exactly, and holds for
    the layers that are scored.

    Args:
        model: where the scores are to be used; given, they are checked against it, and layers that share weights lose
            the same heads of them, as `mha.prune` asks: those are decided together, by the sum of their scores.
        keep: share of the scored heads to keep: `round(keep * total)` heads.
        heads: number of heads to keep, over all layers.
        latency, flops: share of the dense model's seconds, or floating-point operations, that the pruned one takes
            at most, by `costs`.
        parameters: share of the dense model's parameters that the pruned one has at most; counted on `model`, or by
            `costs`.
        costs: what `mha.measure_costs` found on this model. Given with any budget, they also tell of a plan that is
            no faster than the dense model.
        min_heads: no layer keeps fewer; or layer -> the fewest that it keeps, 0 where not named.
        uniform: every layer keeps as many heads as any other; those with several query heads per key/value group also
            as many groups. What needs one number for the whole model (a configuration) can then describe it.
        multiple_of: every layer's number of key/value groups, and so of query heads, is divisible by this, such as the
            ranks of tensor parallelism; 0 is. Layers that have fewer groups than that from the start, as in multi-query
            attention, are shared by their query heads: those are divisible by it, and the groups, of which ranks hold
            copies, divide it.
        whole_groups: every key/value group keeps all of its query heads, or leaves.
        runs_on: a runtime, whose own terms are added: "transformers" (as many heads in every layer, at least one),
            "vllm" and "tensorrt-llm" (whole groups), "tensor cores" (multiples of 8), or "torch", "onnx", "openvino",
            "executorch" and "llama.cpp", which take any plan.
        across_layers: whether a score is worth as much in one layer as in another. Unless told, it is where the scores
            say so (`HeadScores.comparable`: what the loss would do without a head). Where it is not, heads are ranked
            within their layers, and every layer gives about its share: weights and activations grow from layer to
            layer, and plans by their size alone take whole early layers away (docs/importance.md).

    Raises:
        ScoresError: no budget, or several; costs that the budget needs are missing; or a budget that can't be met, or
            only by a model without any head (the error says the nearest that can be met).
        PlanError: the scores do not belong to the model or to the costs.

    Warns:
        SlowPlanWarning: heads leave, and by `costs` the model does not become faster.

    Example:
        >>> scores = mha.HeadScores({"0": torch.tensor([5.0, 1.0, 4.0]), "1": torch.tensor([2.0, 3.0])})
        >>> mha.choose(scores, keep=0.6)
        HeadPlan({'0': (0, 2), '1': (1,)})
    """
    plan = best_plan(
        scores,
        {"keep": keep, "heads": heads, "latency": latency, "flops": flops, "parameters": parameters},
        model=model,
        costs=costs,
        min_heads=min_heads,
        uniform=uniform,
        multiple_of=multiple_of,
        whole_groups=whole_groups,
        runs_on=runs_on,
        across_layers=across_layers,
    )
    tell_if_slow(plan, scores, costs)
    return plan


def best_plan(
    scores: HeadScores,
    budgets: Mapping[str, float | None],
    *,
    model: nn.Module | None = None,
    costs: CostTable | None = None,
    across_layers: bool | None = None,
    known: Mapping[str, Sequence[Choice]] | None = None,
    runs_on: str | None = None,
    **terms: Any,
) -> HeadPlan:
    """The plan that `choose` returns, without its warning about a plan that is no faster than the dense model.

    Args:
        budgets: name of every budget -> how much of it is given; None where it is not.
        known: layer -> its choices, where more is known of them than the scores of single heads say.
        runs_on: a runtime of `mha.planning.runtimes.RUNTIMES`, whose terms are added.
        terms: fields of `mha.planning.terms.Terms`.

    Raises:
        ScoresError: not exactly one budget, one that can't be met, or one whose costs are missing; an unknown runtime.
        PlanError: the scores do not belong to the model or to the costs.
        TypeError: a term that `Terms` does not have.
    """
    asked = Terms(**terms_of(runs_on, terms, scores.scores))
    budget, amount = _only_one(budgets)
    layers = None if model is None else find_attention(model)
    _check_belong(scores, layers, costs)
    ties = [] if layers is None else ties_of(layers)
    across = scores.comparable if across_layers is None else across_layers
    programme = Programme.of(scores if across else _within_layers(scores), asked, ties, known if across else None)
    if budget in QUANTITIES:
        best = programme.within_budget(budget, amount, Charges.of(budget, model, costs, ties))
    else:
        best = programme.best_of_size(_size(scores.num_heads, budget, amount))
    return rearranged(best, scores, ties)


def _within_layers(scores: HeadScores) -> HeadScores:
    """Each layer's scores as ranks within it, from 1 / h to 1, by which all layers lose about the same share."""
    rows = {name: (row.argsort(stable=True).argsort() + 1.0) / max(len(row), 1) for name, row in scores.scores.items()}
    return HeadScores(rows, scores.groups, heads=scores.heads)


def _only_one(budgets: Mapping[str, float | None]) -> tuple[str, float]:
    """The one budget that is given: its name, and how much of it.

    Raises:
        ScoresError: there are several, or none, or it is not between 0 and 1, where it is another one than "heads".
    """
    wanted = {name: amount for name, amount in budgets.items() if amount is not None}
    if len(wanted) != 1:
        came = ", ".join(f"{name}={amount}" for name, amount in wanted.items()) or "none"
        raise ScoresError(f"give exactly one budget, got {came}; there are {', '.join(budgets)}")
    ((name, amount),) = wanted.items()
    if name != "heads" and not 0.0 <= amount <= 1.0:
        of = "the heads" if name == "keep" else "the dense model's"
        raise ScoresError(f"{name} is a share of {of}, between 0 and 1, got {amount}")
    return name, amount


def _size(total: int, budget: str, amount: float) -> int:
    """How many of `total` heads to keep, by the budget "keep" (a share of them) or "heads" (a number).

    Raises:
        ScoresError: the number is not a whole one from 0 to `total`.
    """
    if budget == "keep":
        return round(amount * total)
    if not 0 <= amount <= total or amount != int(amount):
        raise ScoresError(f"heads is how many of the {total} scored heads to keep, got {amount}")
    return int(amount)


def _check_belong(scores: HeadScores, layers: AttentionMap | None, costs: CostTable | None) -> None:
    """Refuse scores of layers or heads that the model does not have, or whose costs were not measured.

    Raises:
        PlanError: a scored layer is not there, or has other heads or another number of groups there.
    """
    if layers is not None:
        _check_layers(scores, {name: (layer.heads, layer.num_kv_heads) for name, layer in layers.items()}, "the model")
    if costs is not None:
        _check_layers(scores, {name: (layer.heads, layer.groups) for name, layer in costs.layers.items()}, "the costs")


def _check_layers(scores: HeadScores, layers: Mapping[str, tuple[tuple[int, ...], int]], whose: str) -> None:
    """Refuse scores of a layer that is not among `layers`, or that has other heads or groups there.

    Args:
        layers: layer -> original numbers of its heads, and how many key/value groups it has.
        whose: "the model" or "the costs", for the error.

    Raises:
        PlanError: the scores have such a layer; says which.
    """
    verb, then = ("do", "measure the costs of this model") if whose == "the costs" else ("does", "score this model")
    if unknown := [name for name in scores.scores if name not in layers]:
        raise PlanError(f"the scores name layers that {whose} {verb} not have: {unknown}; there are {list(layers)}")
    for name, ids in scores.heads.items():
        heads, groups = layers[name]
        if ids != heads or scores.groups[name] != groups:
            raise PlanError(
                f"layer {name!r}: the scores are of heads {list(ids)} in {scores.groups[name]} key/value groups, "
                f"{whose} of heads {list(heads)} in {groups}; {then}"
            )


def tell_if_slow(plan: HeadPlan, scores: HeadScores, costs: CostTable | None) -> None:
    """Warn of a plan that removes heads and, by the costs, makes the model no faster; without costs nothing is known.

    Warns:
        SlowPlanWarning: the pruned model is predicted to take as long as the dense one, or longer.
    """
    kept = sum(map(len, plan.keep.values()))
    if costs is None or kept == scores.num_heads:
        return
    predicted = costs.latency(plan)
    if predicted.share >= 1.0:
        warnings.warn(
            f"the plan keeps {kept} of {scores.num_heads} heads and, by the measured costs, takes "
            f"{predicted.share:.3f} of the dense model's time: pruning that little does not pay here",
            SlowPlanWarning,
            stacklevel=3,
        )
