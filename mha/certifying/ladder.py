"""The candidates in their order: plans, pruned models, or what makes one of these once it is needed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mha.costs import CostTable
from mha.families import AttentionLayer, AttentionMap, find_attention
from mha.pruning.slicing import prune
from mha.values.errors import CertificateError, PlanError
from mha.values.plan import HeadPlan

Candidate = HeadPlan | nn.Module | Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the ladder.

    Attributes:
        model: the pruned model.
        plan: the heads that it keeps in every layer.
        heads: how many these are.
        latency: its predicted latency as a share of the dense one; None without costs.
    """

    model: nn.Module
    plan: HeadPlan
    heads: int
    latency: float | None


class Ladder:
    """The candidates of a dense model, from the mildest to the boldest.

    Those that are there are ordered by the heads that they keep, or by predicted latency where costs are given. Where
    some are made only once they are needed, all are taken in the order in which they were given.

    Args:
        model: the dense model.
        candidates: plans, pruned models, or functions without arguments that return one of these.
        costs: of the dense model's layers.

    Raises:
        CertificateError: there are no candidates, or one is something else.
        PlanError: one is not pruned from this model, or its plan does not fit it.
    """

    def __init__(self, model: nn.Module, candidates: Iterable[Candidate], costs: CostTable | None = None) -> None:
        self._model, self._costs = model, costs
        self._layers = find_attention(model)
        if isinstance(candidates, HeadPlan | nn.Module) or not isinstance(candidates, Iterable):
            raise CertificateError(f"candidates: expected a list of plans or pruned models, got {candidates!r:.80}")
        self._given = list(candidates)
        if not self._given:
            raise CertificateError("there are no candidates; give plans or pruned models, one or more")
        if not self._layers:
            raise CertificateError("the model has no attention of a known family: there is nothing to prune")
        self._plans = [self._plan_of(item, number) for number, item in enumerate(self._given)]

    def __len__(self) -> int:
        return len(self._given)

    def __iter__(self) -> Iterator[Step]:
        """The steps; each model is made when its turn comes."""
        for number in self._order():
            yield self._step(number)

    def whole(self) -> HeadPlan:
        """The plan that keeps all heads."""
        return _kept(self._layers)

    def latency(self, plan: HeadPlan) -> float | None:
        """The predicted latency of a plan as a share of the dense one; None without costs."""
        return None if self._costs is None else self._costs.latency(plan).share

    def _order(self) -> list[int]:
        """The numbers of the candidates, mildest first."""
        plans = [plan for plan in self._plans if plan is not None]
        if len(plans) < len(self._plans):
            return list(range(len(self._plans)))
        return sorted(range(len(plans)), key=lambda number: -self._size(plans[number]))

    def _size(self, plan: HeadPlan) -> float:
        latency = self.latency(plan)
        return _heads(plan) if latency is None else latency

    def _plan_of(self, candidate: Candidate, number: int) -> HeadPlan | None:
        """The heads that a candidate keeps in every layer; None where that is not known before it is made."""
        if isinstance(candidate, nn.Module):
            layers = find_attention(candidate)
            check_pruned_from(self._layers, layers, f"candidate {number}")
            return _kept(layers)
        if isinstance(candidate, Mapping):
            plan = HeadPlan(candidate)
            if unknown := [name for name in plan if name not in self._layers]:
                raise PlanError(f"candidate {number}: the model has no layers {unknown}; it has {list(self._layers)}")
            return HeadPlan({name: plan.get(name, layer.heads) for name, layer in self._layers.items()})
        if callable(candidate):
            return None
        raise CertificateError(
            f"candidate {number}: expected a HeadPlan, a pruned model, or a function that makes one, got "
            f"{candidate!r:.80}"
        )

    def _step(self, number: int) -> Step:
        """The step of the candidate of this number, made now."""
        candidate: Any = self._given[number]
        if callable(candidate) and not isinstance(candidate, nn.Module | Mapping):
            candidate = candidate()
            if callable(candidate) and not isinstance(candidate, nn.Module | Mapping):
                raise CertificateError(f"candidate {number}: the function made a function; expected a plan or a model")
        plan = self._plan_of(candidate, number)
        assert plan is not None
        model = candidate if isinstance(candidate, nn.Module) else prune(self._model, HeadPlan(candidate))
        return Step(model, plan, _heads(plan), self.latency(plan))


def check_pruned_from(layers: AttentionMap, pruned: AttentionMap, whose: str) -> None:
    """Refuse a model that was not pruned from the one with these layers; errors call it `whose`.

    Raises:
        PlanError: it has other layers, or heads that the dense model has not, or that are made otherwise.
    """
    if layers.keys() != pruned.keys():
        raise PlanError(
            f"{whose} is not pruned from this model: only one of the two has the layers "
            f"{sorted(layers.keys() ^ pruned.keys())}"
        )
    for name, layer in pruned.items():
        if foreign := [head for head in layer.heads if head not in layers[name].heads]:
            raise PlanError(
                f"{whose} is not pruned from this model: its layer {name!r} has heads {foreign}, the model's has "
                f"{list(layers[name].heads)}"
            )
        if _make(layer) != _make(layers[name]):
            raise PlanError(
                f"{whose} is not pruned from this model: its layer {name!r} was made with {_make(layer)[0]} heads of "
                f"width {_make(layer)[1]}, the model's with {_make(layers[name])[0]} of {_make(layers[name])[1]}"
            )


def _make(layer: AttentionLayer) -> tuple[int, int]:
    """With how many heads the layer was made, and how wide they are."""
    return layer.lineage.total_heads, layer.head_dim


def _kept(layers: AttentionMap) -> HeadPlan:
    return HeadPlan({name: layer.heads for name, layer in layers.items()})


def _heads(plan: HeadPlan) -> int:
    return sum(map(len, plan.values()))
