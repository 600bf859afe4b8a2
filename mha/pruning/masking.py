"""Runs a model with heads switched off, or weighed by gates, whatever the family of its attention.

A head acts on the rest of the model only through its columns of the output projection, so scaling that
projection's input head by head is all it takes.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer, AttentionMap, find_attention
from mha.pruning.locate import locate
from mha.runtime.activation_checkpoints import no_reentrant_checkpoints
from mha.runtime.intercept import becoming
from mha.runtime.locking import locked
from mha.runtime.undoing import Setting, changed, hooked, overridden
from mha.values.errors import UnsupportedModule
from mha.values.layout import owners
from mha.values.plan import HeadPlan


@contextmanager
def masked(model: nn.Module, plan: HeadPlan) -> Iterator[nn.Module]:
    """Within the context, heads that the plan does not keep add nothing to the layer's output; weights stay the same.

    What `torch.compile` has compiled runs uncompiled here: its code does not know of the masks. Any set of heads can
    be masked, also one that grouped attention could not be sliced to. Calls of other threads that change the model for
    a time, as masking and scoring do, wait until the context ends (`mha.runtime.locking`).

    Raises:
        PlanError: the plan names a layer or a head that is not there.
        UnsupportedModule: it names a module of no known family, or one whose `forward` was replaced on the instance.
        BusyError: another thread has the model, and waiting for it would not end.

    Example:
        >>> attention, x = mha.MultiHeadAttention.square(8, 4), torch.randn(2, 5, 8)
        >>> before = attention(x, x, x)
        >>> with mha.masked(attention, mha.HeadPlan({"": (0, 3)})):
        ...     torch.allclose(attention(x, x, x), before)
        False
        >>> torch.equal(attention(x, x, x), before)
        True
    """
    with locked(model, by="mha.masked"), ExitStack() as hooks:
        for layer, positions in locate(model, find_attention(model), plan):
            if not layer.num_heads:
                continue  # there is nothing to switch off
            kept = torch.zeros(layer.num_heads, dtype=torch.bool)
            kept[list(positions)] = True
            hooks.enter_context(on_context(layer, _switch_off(~kept[owners(layer.context_axis, layer.sizes)])))
            hooks.enter_context(_weights_of(layer, positions))
        yield model


@contextmanager
def gated(layers: AttentionMap, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the `with` block, the context vectors of every head in the named layers are multiplied by its gate ξ.

    Args:
        layers: the model's, as `find_attention` finds them.
        gates: name of a layer -> (h,), or (b, h) for one gate per example of a batch-first layer; gradients flow
            into them. A layer without heads is left as it is.

    Raises:
        UnsupportedModule: a layer's `forward` was replaced on the instance, so that its class can't be changed.
    """
    with ExitStack() as hooks:
        for name, gate in gates.items():
            if layers[name].num_heads:
                hooks.enter_context(on_context(layers[name], partial(scale, layer=layers[name], gate=gate)))
        yield


def scale(context: Tensor, layer: AttentionLayer, gate: Tensor) -> Tensor:
    """The context (b, …, h x head width) with each head's features multiplied by its gate, (h,) or (b, h)."""
    owner = owners(layer.context_axis, layer.sizes).to(gate.device)
    factors = gate.index_select(-1, owner).to(context)
    if factors.dim() == 2:
        factors = factors.reshape(factors.shape[0], *(1,) * (context.dim() - 2), factors.shape[1])
    return context * factors


@contextmanager
def on_context(layer: AttentionLayer, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the `with` block, the layer's output projection reads `change(context)` instead of its context.

    Code that `torch.compile` has compiled runs uncompiled meanwhile, and padding is computed too.

    Raises:
        UnsupportedModule: the layer's `forward` was replaced on the instance, so that its class can't be changed.
    """

    runs = _Runs(layer)

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        context, *rest = args
        return (change(context), *rest) if runs else args

    core, kind = layer.core, layer.class_with(layer.num_heads)
    if why := layer.why_hidden(kind):
        raise UnsupportedModule(f"layer {layer.name!r}: {why}")
    with (
        hooked(layer.output, hook, before=True),
        becoming(core, kind),
        nothing_compiled(),
        _unpacked(core),
        runs.told(),
    ):
        yield


class _Runs:
    """Tells by its truth value whether a call of the output projection is this layer's, not that of one sharing it.

    Within `told`, it is true while the layer's forward runs. It is always true of a projection that no other shares.
    """

    def __init__(self, layer: AttentionLayer) -> None:
        self._module = layer.module
        self._shared = f"{layer.description.output}.weight" in layer.shares
        self._depth = 0

    def __bool__(self) -> bool:
        return self._depth > 0 or not self._shared

    @contextmanager
    def told(self) -> Iterator[None]:
        """Within the `with` block, the layer's calls are followed; outside, a shared projection gives False."""
        with ExitStack() as hooks:
            if self._shared:
                hooks.enter_context(hooked(self._module, lambda *_: self._count(1), before=True))
                hooks.enter_context(hooked(self._module, lambda *_: self._count(-1), always_call=True))
            yield

    def _count(self, change: int) -> None:
        self._depth += change


def nothing_compiled() -> AbstractContextManager[None]:
    """Within the `with` block, what `torch.compile` has compiled runs as it was written: compiled code does not look
    for hooks that were registered later. It holds for the process, until the last such block of any thread ends."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        return nullcontext()
    return _STANCE.at({"stance": "force_eager"})


def _stance() -> dict[str, Any]:
    """How torch.compile is set now, as arguments of `torch.compiler.set_stance`."""
    now = sys.modules["torch._dynamo"].eval_frame._stance  # there is no public way to ask
    return {
        "stance": now.stance,
        "skip_guard_eval_unsafe": now.skip_guard_eval_unsafe,
        "force_backend": now.backend,
    }


_STANCE = Setting(_stance, lambda stance: torch.compiler.set_stance(**stance))


@contextmanager
def at_rest(*models: nn.Module) -> Iterator[None]:
    """Within the `with` block the models are in eval mode and gradients are enabled, even if the caller has disabled
    them or is in inference mode; afterwards these modes and the states of torch's random generators are as before.

    Reentrant activation checkpoints run as non-reentrant ones meanwhile.
    """
    with ExitStack() as context:
        context.enter_context(torch.random.fork_rng())
        context.enter_context(changed(partial(torch.set_rng_state, torch.get_rng_state())))
        context.enter_context(changed(partial(torch.set_grad_enabled, torch.is_grad_enabled())))
        context.enter_context(torch.inference_mode(False))
        context.enter_context(torch.enable_grad())
        context.enter_context(no_reentrant_checkpoints())
        for model in models:
            context.enter_context(eval_mode(model))
        yield


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within the `with` block every module of the model is in eval mode; afterwards each is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    with changed(partial(_set_modes, modes)):
        model.eval()
        yield


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode


@contextmanager
def _weights_of(layer: AttentionLayer, positions: tuple[int, ...]) -> Iterator[None]:
    """Within the `with` block, a layer that can return attention weights returns those of the heads at `positions`
    only, as the sliced layer would."""
    if hasattr(type(layer.module), "shown_heads"):
        shown: AbstractContextManager[None] = overridden(layer.module, "shown_heads", positions)
    elif layer.description.weights is not None:
        shown = _returned(layer.core, layer.description.weights, layer.num_heads, positions)
    else:
        shown = nullcontext()
    with shown:
        yield


def _unpacked(core: nn.Module) -> AbstractContextManager[None]:
    """Within the `with` block, a core that leaves out padding (its class has `packs`) computes padding too.

    So its context is (b, q, …), with an entry for each example, as gates per example need it.
    """
    return overridden(core, "packs", False) if hasattr(type(core), "packs") else nullcontext()


def _returned(core: nn.Module, place: int, total: int, positions: tuple[int, ...]) -> AbstractContextManager[None]:
    """Within the `with` block, the attention weights that the module returns are those of the heads at `positions`.

    What the module returns is left as it is where it is no tuple with a tensor (b, total, q, k) at that index.

    Args:
        place: the index of the weights in the tuple that the module returns.
        total: how many heads the module has.
    """

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, tuple) or len(output) <= place or not isinstance(output[place], Tensor):
            return output
        weights = output[place]
        if weights.dim() != 4 or weights.shape[1] != total:
            return output
        return (*output[:place], weights[:, list(positions)], *output[place + 1 :])

    return hooked(core, hook, prepend=True)  # before those that record the weights


def _switch_off(off: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that sets a context's features to 0 where the mask `off`, (features,), is true."""
    # Filling rather than multiplying: a head that computes NaN or infinity is off all the same.
    return lambda context: context.masked_fill(off.to(context.device), 0.0)
