"""Plans to compare with, by enumeration, and costs made up for them."""

import itertools

import mha
from mha import HeadPlan
from mha.costs import CostTable, LayerCosts, Shape, ShapeCost, feasible_shapes


def feasible(heads: int, groups: int):
    """Every set of heads that leaves each surviving group with the same number of query heads."""
    per_group = heads // groups
    for size in range(heads + 1):
        for kept in itertools.combinations(range(heads), size):
            sizes = {sum(head // per_group == group for head in kept) for group in range(groups)} - {0}
            if len(sizes) <= 1:
                yield kept


def every_plan(scores, fewest=0):
    """Every plan that `feasible` allows with at least so many heads in each layer."""
    options = [
        [kept for kept in feasible(len(row), scores.groups[name]) if len(kept) >= fewest]
        for name, row in scores.scores.items()
    ]
    return [HeadPlan(dict(zip(scores.scores, kept, strict=True))) for kept in itertools.product(*options)]


def uneven(layers: mha.AttentionMap, *, empty: str | None = None) -> HeadPlan:
    """As many heads of each of as many groups as the layer's place says, from the back."""
    keep = {}
    for place, (name, layer) in enumerate(layers.items()):
        per_group = layer.num_heads // layer.num_kv_heads
        groups = range(layer.num_kv_heads)[-1 - place % layer.num_kv_heads :]
        heads = range(per_group)[-1 - (place + 1) % per_group :]
        keep[name] = () if name == empty else [group * per_group + head for group in groups for head in heads]
    return HeadPlan(keep)


def table(scores, seconds, rest=10.0, dense=None, **unscored):
    """Costs of the scored layers, and of further ones (name=heads); flops and parameters are not the seconds."""
    sizes = {name: (scores.heads[name], scores.groups[name]) for name in scores.scores}
    sizes |= {name: (tuple(range(heads)), heads) for name, heads in unscored.items()}
    layers = {}
    for index, (name, (heads, groups)) in enumerate(sizes.items()):
        shapes = feasible_shapes(Shape(len(heads), groups))
        costs = {shape: ShapeCost(seconds(index, shape), 5 * shape.heads, 7 * shape.heads) for shape in shapes}
        layers[name] = LayerCosts(heads, groups, costs)
    whole = sum(layer.costs[layer.whole].seconds for layer in layers.values())
    heads = sum(len(layer.heads) for layer in layers.values())
    return CostTable(layers, ShapeCost(dense or rest + whole, 11 + 5 * heads, 13 + 7 * heads), rest)
