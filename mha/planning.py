"""Scores and a budget become a plan."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from mha.costs import CostTable, Quantity, Shape, count_parameters, parameters_of
from mha.errors import PlanError, ScoresError, SlowPlanWarning
from mha.families import find_attention
from mha.heads import HeadPlan, HeadScores
from mha.knapsack import Option, best_of_size, best_within
from mha.rearrangement import rearranged

QUANTITIES: Mapping[str, Quantity] = {"latency": "seconds", "flops": "flops", "parameters": "parameters"}


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
) -> HeadPlan:
    """The feasible plan within the budget whose kept heads have the largest total score.

    Exactly one budget, and solved exactly. `keep` and `heads` are counts: the plan has the largest feasible size not
    above them, whatever the scores. `latency`, `flops` and `parameters` are limits on the whole model: a head with a
    negative score leaves even where it could stay, and of plans with the same score one with most heads is taken,
    so that no head leaves where that saves nothing. In grouped attention every surviving key/value group of a
    layer keeps the same number of query heads. The plan names every scored layer.

    Args:
        model: where the scores are to be used; given, they are checked against it.
        keep: share of the scored heads to keep: `round(keep * total)` heads.
        heads: number of heads to keep, over all layers.
        latency, flops: share of the dense model's seconds, or floating-point operations, that the pruned one takes
            at most, by `costs`.
        parameters: share of the dense model's parameters that the pruned one has at most; counted on `model`, or by
            `costs`.
        costs: what `mha.measure_costs` found on this model. Given with any budget, they also tell of a plan that is
            no faster than the dense model.
        min_heads: no layer keeps fewer; or layer -> the fewest that it keeps, 0 where not named.

    Raises:
        ScoresError: no budget or several, costs that it needs and that are missing, or one that can't be met (says
            the nearest that can).
        PlanError: the scores do not belong to the model or to the costs.

    Warns:
        SlowPlanWarning: heads leave, and by `costs` the model does not become faster.
    """
    budgets = {"keep": keep, "heads": heads, "latency": latency, "flops": flops, "parameters": parameters}
    budget, amount = _only_one(budgets)
    _check_belong(scores, model, costs)
    options = _options(scores, min_heads)
    floor = f"at least {min_heads} in each of {len(options)} layers"
    if budget in QUANTITIES:
        shapes = _within(options, budget, amount, _Charges.of(budget, model, costs), floor)
    else:
        shapes = _of_size(options, _size(len(scores), budget, amount), floor)
    best = HeadPlan({name: options[name][shape].heads for name, shape in shapes.items()})
    plan = rearranged(best, scores)
    _tell_if_slow(plan, scores, costs)
    return plan


@dataclass(frozen=True)
class _Choice:
    """The best way for a layer to have a certain shape."""

    value: float  # total score
    heads: tuple[int, ...]  # original numbers


Options = Mapping[str, Mapping[Shape, _Choice]]  # of each layer, every feasible shape with enough heads


def _only_one(budgets: Mapping[str, float | None]) -> tuple[str, float]:
    given = {name: amount for name, amount in budgets.items() if amount is not None}
    if len(given) != 1:
        came = ", ".join(f"{name}={amount}" for name, amount in given.items()) or "none"
        raise ScoresError(f"give exactly one budget, got {came}; there are {', '.join(budgets)}")
    ((name, amount),) = given.items()
    if name != "heads" and not 0.0 <= amount <= 1.0:
        of = "the heads" if name == "keep" else "the dense model's"
        raise ScoresError(f"{name} is a share of {of}, between 0 and 1, got {amount}")
    return name, amount


def _size(total: int, budget: str, amount: float) -> int:
    if budget == "keep":
        return round(amount * total)
    if not 0 <= amount <= total or amount != int(amount):
        raise ScoresError(f"heads is how many of the {total} scored heads to keep, got {amount}")
    return int(amount)


def _check_belong(scores: HeadScores, model: nn.Module | None, costs: CostTable | None) -> None:
    """Whether the scores are of the heads that the model has, and the costs too."""
    if model is not None:
        layers = find_attention(model)
        _check_layers(scores, {name: (layer.heads, layer.num_kv_heads) for name, layer in layers.items()}, "the model")
    if costs is not None:
        _check_layers(scores, {name: (layer.heads, layer.groups) for name, layer in costs.layers.items()}, "the costs")


def _check_layers(scores: HeadScores, layers: Mapping[str, tuple[tuple[int, ...], int]], whose: str) -> None:
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


def _options(scores: HeadScores, min_heads: int | Mapping[str, int]) -> Options:
    floors = min_heads if isinstance(min_heads, Mapping) else dict.fromkeys(scores.scores, min_heads)
    if unknown := [name for name in floors if name not in scores.scores]:
        raise ScoresError(f"min_heads names layers without scores: {unknown}; scored are {list(scores.scores)}")
    return {name: _layer_options(scores, name, floors.get(name, 0)) for name in scores.scores}


def _layer_options(scores: HeadScores, name: str, fewest: int) -> dict[Shape, _Choice]:
    """Shape -> the best heads of that shape, for every feasible one with at least `fewest` heads."""
    values, ids = scores.scores[name].numpy(), scores.heads[name]
    if len(values) < fewest:
        raise ScoresError(f"layer {name!r} has only {len(values)} heads, fewer than min_heads={fewest}")
    return {
        shape: _Choice(float(values[kept].sum()), tuple(ids[i] for i in sorted(kept)))
        for shape, kept in _group_choices(values, scores.groups[name])
        if shape.heads >= fewest
    }


def _group_choices(values: np.ndarray, groups: int) -> Iterator[tuple[Shape, list[int]]]:
    """For every feasible shape, the positions with the largest total score."""
    yield Shape(0, 0), []
    if groups == 0:
        return
    ranked = np.argsort(-values.reshape(groups, -1), axis=1, kind="stable")
    per_group = ranked.shape[1]
    for heads in range(1, per_group + 1):
        members = ranked[:, :heads] + per_group * np.arange(groups)[:, None]
        order = np.argsort(-values[members].sum(axis=1), kind="stable")
        for count in range(1, groups + 1):
            yield Shape(count * heads, count), members[order[:count]].ravel().tolist()


def _of_size(options: Options, wanted: int, floor: str) -> dict[str, Shape]:
    """The best shapes with as many heads as possible, but not more than `wanted`."""
    layers = [[Option(choice.value, shape.heads) for shape, choice in layer.items()] for layer in options.values()]
    best = best_of_size(layers, wanted)
    if best is None:
        fewest = sum(min(shape.heads for shape in layer) for layer in options.values())
        raise ScoresError(
            f"no feasible plan keeps at most {wanted} heads with {floor}; the smallest that does keeps {fewest}"
        )
    return _named(options, best)


@dataclass(frozen=True)
class _Charges:
    """What shapes cost, so that a model costs the rest and the sum over its layers.

    Attributes:
        layers: of all the model's layers, also those without scores.
    """

    dense: float
    rest: float
    layers: Mapping[str, Mapping[Shape, float]]

    @classmethod
    def of(cls, budget: str, model: nn.Module | None, costs: CostTable | None) -> "_Charges":
        if costs is not None:
            quantity = QUANTITIES[budget]
            return cls(getattr(costs.dense, quantity), costs.rest_of(quantity), costs.amounts(quantity))
        if budget != "parameters":
            raise ScoresError(
                f"{budget} needs measured costs: choose(…, {budget}=…, costs=mha.measure_costs(model, args))"
            )
        if model is None:
            raise ScoresError("parameters needs the model, or its costs: choose(…, parameters=…, model=model)")
        dense, layers = parameters_of(model), count_parameters(find_attention(model))
        return cls(dense, dense - sum(max(layer.values()) for layer in layers.values()), layers)


def _within(options: Options, budget: str, share: float, charges: _Charges, floor: str) -> dict[str, Shape]:
    """The best shapes for which the whole model costs at most that share of the dense one."""
    unscored = sum(max(layer.values()) for name, layer in charges.layers.items() if name not in options)
    fixed = charges.rest + unscored
    layers = [
        [Option(choice.value, charges.layers[name][shape], shape.heads) for shape, choice in layer.items()]
        for name, layer in options.items()
    ]
    best = best_within(layers, share * charges.dense - fixed)
    if best is None:
        least = fixed + sum(min(option.cost for option in layer) for layer in layers)
        raise ScoresError(
            f"no feasible plan takes at most {share:g} of the dense model's {budget} with {floor}; the least that any "
            f"does is {least / charges.dense:.4f}"
        )
    return _named(options, best)


def _named(options: Options, places: list[int]) -> dict[str, Shape]:
    return {name: list(layer)[place] for (name, layer), place in zip(options.items(), places, strict=True)}


def _tell_if_slow(plan: HeadPlan, scores: HeadScores, costs: CostTable | None) -> None:
    kept = sum(map(len, plan.keep.values()))
    if costs is None or kept == len(scores):
        return
    predicted = costs.latency(plan)
    if predicted.share >= 1.0:
        warnings.warn(
            f"the plan keeps {kept} of {len(scores)} heads and, by the measured costs, takes "
            f"{predicted.share:.3f} of the dense model's time: pruning that little does not pay here",
            SlowPlanWarning,
            stacklevel=3,
        )
