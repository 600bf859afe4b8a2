"""A model, the inputs it is measured with, and which of its layers cost the same."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from mha.costs.alike import Key, cost_key
from mha.costs.capture import CallArguments, LayerCalls, capture
from mha.costs.counts import count_flops
from mha.costs.curves import Grid
from mha.costs.shapes import Shape, first_heads
from mha.families import AttentionLayer, AttentionMap, find_attention
from mha.pruning.slicing import prune
from mha.runtime.sharing_copy import sharing_copy
from mha.values.errors import CostsError
from mha.values.plan import HeadPlan

Calling = Callable[[nn.Module, CallArguments], Callable[[], Callable[[], object]]]  # module, arguments -> for `Rounds`


@dataclass(eq=False)
class LayerKind:
    """A layer with the arguments of one of its calls, measured on behalf of all calls that cost the same.

    Attributes:
        grid: the shapes at which it is measured.
        calling: what makes a module callable with arguments, such as `readied`.
        uses: how many calls, of this layer and others, it stands for in one run of the model.
        flops: shape -> floating-point operations of the call, for the shapes that `sliced` has been asked for.
    """

    layer: AttentionLayer
    call: CallArguments
    grid: Grid
    calling: Calling
    uses: int = 0
    flops: dict[Shape, int] = field(default_factory=dict)

    def sliced(self, shape: Shape) -> Callable[[], Callable[[], object]]:
        """What `calling` makes of a copy of the layer pruned to that shape; its FLOPs are noted down in `flops`.

        Raises:
            CostsError: the copy fails on the arguments of the call, such as a cache that the dense model has filled.
        """
        layer = self.layer
        plan = HeadPlan({"": first_heads(layer.heads, self.grid.whole, shape)})
        sliced = prune(sharing_copy(layer.module), plan, inplace=True)
        with _explained(f"layer {layer.name!r} with {shape.heads} of its {layer.num_heads} heads"):
            self.flops[shape] = count_flops(readied(sliced, self.call)()).total
            return self.calling(sliced, self.call)


@dataclass(frozen=True)
class MeasuredModel:
    """A model with the inputs that it is measured with, and what its attention layers do on them.

    Attributes:
        calls: layer -> the kinds of its calls in one run of the model, and how many of each; empty for a layer that
            these inputs do not reach.
        flops: floating-point operations of one run of the model.
        layers: its attention layers, by name.
        calling: what makes a module callable with arguments.
    """

    model: nn.Module
    call: CallArguments
    layers: AttentionMap
    calls: Mapping[str, list[tuple[LayerKind, int]]]
    flops: int
    calling: Calling

    @classmethod
    def of(cls, model: nn.Module, call: CallArguments, calling: Calling | None = None) -> "MeasuredModel":
        """The model with all that running it on these arguments tells: each layer's calls, and the FLOPs.

        Args:
            calling: what makes a module callable with arguments; `readied` unless given, which runs it as it is.

        Raises:
            CostsError: the model fails on these arguments.
        """
        calling = calling or readied
        layers, kinds = find_attention(model), dict[Key, LayerKind]()
        visits = capture(model, layers, call)
        calls = {name: _calls(layers[name], seen, kinds, calling) for name, seen in visits.items()}
        return cls(model, call, layers, calls, count_flops(readied(model, call)()).total, calling)

    @property
    def kinds(self) -> list[LayerKind]:
        """The kinds of all layers' calls, each once, in the order in which layers have them."""
        return list(dict.fromkeys(kind for calls in self.calls.values() for kind, _ in calls))

    def ready(self, share: float) -> Callable[[], Callable[[], object]]:
        """What `calling` makes of a copy of the model, pruned to that share of every layer's heads and run once.

        Raises:
            CostsError: the copy fails on the model's arguments, such as a cache that the dense model has filled.
        """
        with _explained(f"the model with {share:g} of its heads"):
            ready = self.calling(self.pruned(share), self.call)
            ready()()
        return ready

    def pruned(self, share: float) -> nn.Module:
        """A copy of the model, pruned to that share of every layer's heads."""
        plan = {}
        for name, layer in self.layers.items():
            plan[name] = first_heads(layer.heads, whole_of(layer), share_of(layer, share))
        return prune(sharing_copy(self.model), HeadPlan(plan), inplace=True)

    def changes_class(self) -> bool:
        """Whether pruning replaces the class of some layer even if all of its heads stay."""
        whole = self.pruned(1.0)
        pairs = zip(whole.modules(), self.model.modules(), strict=True)
        return any(type(pruned) is not type(dense) for pruned, dense in pairs)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn an error within the context into one that says that `what` can't run, and what may be the reason.

    Raises:
        CostsError: the body of the context raises an `Exception`, whichever.
    """
    try:
        yield
    except Exception as error:
        raise CostsError(
            f"{what} can't run on the inputs of the dense one ({type(error).__name__}: {error}); a cache that the "
            "dense model has filled does not fit fewer heads: give an empty one"
        ) from error


def whole_of(layer: AttentionLayer) -> Shape:
    """The shape of the layer with all of its heads."""
    return Shape(layer.num_heads, layer.num_kv_heads)


def share_of(layer: AttentionLayer, share: float) -> Shape:
    """The shape that keeps this share of the layer's groups, each whole; of a single group, this share of its heads."""
    whole = whole_of(layer)
    if whole.groups != 1:
        groups = round(share * whole.groups)
        return Shape(groups * whole.per_group, groups)
    heads = round(share * whole.heads)
    return Shape(heads, 1 if heads else 0)


def readied(module: nn.Module, call: CallArguments) -> Callable[[], Callable[[], object]]:
    """A function for `Rounds`: each call makes fresh arguments, and returns a function that runs the module on them."""

    def prepare() -> Callable[[], object]:
        args, kwargs = call.fresh()

        def run() -> object:
            with torch.inference_mode():
                return module(*args, **kwargs)

        return run

    return prepare


def _calls(
    layer: AttentionLayer, seen: LayerCalls, kinds: dict[Key, LayerKind], calling: Calling
) -> list[tuple[LayerKind, int]]:
    """The kinds of a layer's calls, and how many of each there are; new kinds are added to `kinds`."""
    calls = []
    for key, call in seen.calls.items():
        whole = whole_of(layer)
        kind = kinds.setdefault((whole, *cost_key(layer.module), *key), LayerKind(layer, call, Grid(whole), calling))
        kind.uses += seen.counts[key]
        calls.append((kind, seen.counts[key]))
    return calls
