"""Scores and a budget become a plan."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from mha.costs import CostTable, Quantity, Shape, count_parameters, parameters_of
from mha.families import find_attention
from mha.planning.exchange import rearranged
from mha.planning.feasible import Alternative, Options, Terms, alternatives, options_of, told_counts
from mha.planning.knapsack import Option, best_of_size, best_within
from mha.values.errors import PlanError, ScoresError, SlowPlanWarning
from mha.values.plan import HeadPlan, HeadScores

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
    uniform: bool = False,
    multiple_of: int = 1,
    whole_groups: bool = False,
    across_layers: bool | None = None,
) -> HeadPlan:
    """The feasible plan within the budget whose kept heads have the largest total score.

    Exactly one budget, and solved exactly. `keep` and `heads` are counts: the plan has the largest feasible size not
    above them, whatever the scores. `latency`, `flops` and `parameters` are limits on the whole model: a head with a
    negative score leaves even where it could stay, and of plans with the same score one with most heads is taken,
    so that no head leaves where that saves nothing. In grouped attention every surviving key/value group of a
    layer keeps the same number of query heads. The plan names every scored layer. What it is to be beside that
    (`min_heads`, `uniform`, `multiple_of`, `whole_groups`) combines with every budget, is as exact, and holds for the
    layers that are scored.

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
        uniform: every layer keeps as many heads as any other; those with several query heads per key/value group also
            as many groups. What needs one number for the whole model (a configuration) can then describe it.
        multiple_of: every layer's number of key/value groups, and so of query heads, is divisible by this, such as the
            ranks of tensor parallelism; 0 is. Layers that have fewer groups than that from the start, as in multi-query
            attention, are shared by their query heads: those are divisible by it, and the groups, of which ranks hold
            copies, divide it.
        whole_groups: every key/value group keeps all of its query heads, or leaves.
        across_layers: whether a score is worth as much in one layer as in another. Unless told, it is where the scores
            say so (`HeadScores.comparable`: what the loss would do without a head). Where it is not, heads are ranked
            within their layers, and every layer gives about its share: weights and activations grow from layer to
            layer, and plans by their size alone take whole early layers away (docs/importance.md).

    Raises:
        ScoresError: no budget or several, costs that it needs and that are missing, or one that can't be met, or only
            by a model without any head (says the nearest that can).
        PlanError: the scores do not belong to the model or to the costs.

    Warns:
        SlowPlanWarning: heads leave, and by `costs` the model does not become faster.
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
        across_layers=across_layers,
    )
    _tell_if_slow(plan, scores, costs)
    return plan


def best_plan(
    scores: HeadScores,
    budgets: Mapping[str, float | None],
    *,
    model: nn.Module | None = None,
    costs: CostTable | None = None,
    min_heads: int | Mapping[str, int] = 0,
    uniform: bool = False,
    multiple_of: int = 1,
    whole_groups: bool = False,
    across_layers: bool | None = None,
) -> HeadPlan:
    """As `choose`, without a warning of a plan that is no faster.

    Args:
        budgets: all that there are by name; None where not given.
    """
    budget, amount = _only_one(budgets)
    _check_belong(scores, model, costs)
    across = scores.comparable if across_layers is None else across_layers
    programme = _Programme.of(
        scores if across else _within_layers(scores), Terms(min_heads, uniform, multiple_of, whole_groups)
    )
    if budget in QUANTITIES:
        best = _within(programme, budget, amount, _Charges.of(budget, model, costs))
    else:
        best = _of_size(programme, _size(scores.num_heads, budget, amount))
    return rearranged(best, scores)


def _within_layers(scores: HeadScores) -> HeadScores:
    """The scores as their ranks, from 1 / h to 1: of the lowest heads of all layers, every layer gives its share."""
    rows = {name: (row.argsort(stable=True).argsort() + 1.0) / max(len(row), 1) for name, row in scores.scores.items()}
    return HeadScores(rows, scores.groups, heads=scores.heads)


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


@dataclass(frozen=True)
class _Programme:
    """What may be kept, part by part, as lists for the knapsack.

    Attributes:
        parts: what is decided on its own: a layer, or all layers alike; and what it may become.
        terms: what was asked for beside the budget, in words.
    """

    options: Options
    parts: Sequence[Sequence[Alternative]]
    terms: str

    @classmethod
    def of(cls, scores: HeadScores, terms: Terms) -> "_Programme":
        options = options_of(scores, terms)
        return cls(options, alternatives(scores, options, terms), terms.told(len(options)))

    def priced(self, cost: Callable[[str, Shape], float]) -> list[list[Option]]:
        """The parts, with that cost of a layer in each shape."""
        return [[self._option(alternative, cost) for alternative in part] for part in self.parts]

    def plan(self, places: Sequence[int]) -> HeadPlan:
        chosen = [part[place] for part, place in zip(self.parts, places, strict=True)]
        return HeadPlan({name: self.options[name][shape].heads for part in chosen for name, shape in part.items()})

    def _option(self, alternative: Alternative, cost: Callable[[str, Shape], float]) -> Option:
        return Option(
            sum(self.options[name][shape].value for name, shape in alternative.items()),
            sum(cost(name, shape) for name, shape in alternative.items()),
            sum(shape.heads for shape in alternative.values()),
        )


def _of_size(programme: _Programme, wanted: int) -> HeadPlan:
    """The best plan with as many heads as possible, but not more than `wanted`."""
    parts = programme.priced(lambda _, shape: shape.heads)
    best = best_of_size(parts, wanted)
    if best is None:
        fewest = sum(min(option.rank for option in part) for part in parts)
        raise ScoresError(
            f"no feasible plan keeps at most {wanted} heads with {programme.terms}; the smallest that does keeps "
            f"{fewest}"
        )
    if wanted and not any(part[place].rank for part, place in zip(parts, best, strict=True)):
        _check_any(programme, parts)
        least = min(option.rank for part in parts for option in part if option.rank)
        raise ScoresError(
            f"no plan but the empty one keeps at most {wanted} heads with {programme.terms}; the nearest that can be "
            f"met are 0 and {least}"
        )
    return programme.plan(best)


def _check_any(programme: _Programme, parts: Sequence[Sequence[Option]]) -> None:
    """Refuse terms by which no head could stay, whatever the budget."""
    if programme.options and not any(option.rank for part in parts for option in part):
        raise ScoresError(
            f"no plan but the empty one has {programme.terms}; layers may keep one by one: "
            f"{told_counts(programme.options)}"
        )


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


def _within(programme: _Programme, budget: str, share: float, charges: _Charges) -> HeadPlan:
    """The best plan for which the whole model costs at most that share of the dense one."""
    unscored = sum(max(layer.values()) for name, layer in charges.layers.items() if name not in programme.options)
    fixed = charges.rest + unscored
    parts = programme.priced(lambda name, shape: charges.layers[name][shape])
    _check_any(programme, parts)
    best = best_within(parts, share * charges.dense - fixed)
    if best is None:
        least = fixed + sum(min(option.cost for option in part) for part in parts)
        raise ScoresError(
            f"no feasible plan takes at most {share:g} of the dense model's {budget} with {programme.terms}; the "
            f"least that any does is {least / charges.dense:.4f}"
        )
    return programme.plan(best)


def _tell_if_slow(plan: HeadPlan, scores: HeadScores, costs: CostTable | None) -> None:
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
