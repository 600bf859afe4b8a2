"""What the linear layers that write into a model's residual stream do on calibration data.

A pass with gradients tells three things about such a layer: what the stream holds after it, which module reads
the stream next, and how much each position matters to what the model puts out.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer
from mha.families.base.linears import is_conv1d
from mha.pruning.equivalence import tensors_in
from mha.pruning.masking import nothing_compiled, on_context
from mha.pruning.weight_axes import LINEARS
from mha.repair.least_squares import Moments
from mha.runtime.activation_checkpoints import no_reentrant_checkpoints
from mha.runtime.undoing import hooked
from mha.values.errors import CalibrationError

Forward = Callable[[nn.Module, Any], Any]
SAME = 1e-3  # relative difference of gradients up to which the stream after a layer is its output plus something


class _ReachedError(BaseException):
    """Stops a forward pass which has shown what is needed; no `except Exception` on the way holds it up."""


@dataclass
class Goal:
    """What a linear layer should lead to.

    Attributes:
        reader: the module that reads the residual stream after the layer's output was added to it; None where
            there is none.
        values: batch -> for each run of the layer what the reader reads, or else what the layer puts out, (..., o).
        weights: batch -> for each run how much every position counts, (...).
        source: which run of the pass was the first to read what the layer first reads.
        kept: False where the goal is the layer's own output and its values are to be had from the dense model again.
    """

    reader: str | None = None
    values: list[list[Tensor]] = field(default_factory=list)
    weights: list[list[Tensor]] = field(default_factory=list)
    source: int = -1
    kept: bool = True


@dataclass
class _Run:
    """One run of a layer, and the next module that reads something of its output's shape."""

    name: str
    input: Tensor
    output: Tensor
    reader: str | None = None
    read: Tensor | None = None


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer whose weight can be replaced."""
    return (type(module) in LINEARS or is_conv1d(module)) and module._parameters.get("weight") is not None


def other_linears(model: nn.Module, layers: Mapping[str, AttentionLayer]) -> list[str]:
    """The linear layers that are no output projections of attention and share no weight with another module."""
    held = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    outputs = {layer.output_name for layer in layers.values()}
    return [
        name
        for name, module in model.named_modules()
        if is_linear(module)
        and name not in outputs
        and all(held[id(parameter)] == 1 for parameter in module.parameters())
    ]


@contextmanager
def calling_outputs(layers: Mapping[str, AttentionLayer]) -> Iterator[None]:
    """Within the context every attention layer calls its output projection as a module."""
    with ExitStack() as hooks:
        for layer in layers.values():
            hooks.enter_context(on_context(layer, lambda context: context))
        yield


def goals_of(
    model: nn.Module,
    outputs: Sequence[str],
    others: Sequence[str],
    batches: Sequence[Any],
    forward: Forward,
    *,
    first: Collection[str],
    own: bool = False,
    further: Collection[str] = (),
    silent: Collection[nn.Module] = (),
) -> dict[str, Goal]:
    """Layer, in the order in which they first run and from one of `first` on -> its goal.

    A position's weight is the squared norm of the gradient, at the layer's output there, of a random combination of all
    that `forward` returns: an estimate of ‖∂(returned)/∂(output)‖² (Hutchinson 1990), zero for padding that nothing
    depends on. Where `forward` returns nothing differentiable all positions count alike.

    Args:
        outputs: attention's output projections; where they do not write to a residual stream, the goal is their output.
        others: other linear layers; only those that write to a residual stream, once per pass, get a goal.
        first: what runs before the earliest of these gets no goal.
        own: the goal of all layers is their own output.
        further: those of the others whose goal is their own output if they write to no stream. Its values are not kept:
            they would be most of the memory.
        silent: modules that do not run in the pruned model; what reads the stream there can't be one of them.

    Raises:
        CalibrationError: `forward` ran none of the output projections, or something is NaN or infinite.
    """
    goals: dict[str, Goal] = {}
    for number, batch in enumerate(batches):
        with _observed(model, [*outputs, *others], batch, forward, silent) as (runs, returned):
            by_output, by_read = _gradients(runs, returned, number)
        if number == 0:
            _check_ran(runs, outputs)
            found = _found(runs, by_output, [None] * len(runs) if own else by_read, set(others) - set(further))
            goals = _from(found, first)
            for name, goal in goals.items():
                goal.kept = goal.reader is not None or name not in further
        for goal in goals.values():
            goal.values.append([])
            goal.weights.append([])
        for run, gradient in zip(runs, by_output, strict=True):
            if run.name in goals:
                _add(goals[run.name], run, gradient, number)
    return goals


def together(goals: Mapping[str, Goal]) -> list[list[str]]:
    """The layers in their order; neighbours whose values are not kept and that read the same stand together."""
    groups: list[list[str]] = []
    for name, goal in goals.items():
        before = goals[groups[-1][-1]] if groups else None
        if goal.kept or before is None or before.kept or before.source != goal.source:
            groups.append([name])
        else:
            groups[-1].append(name)
    return groups


def moments_of(
    model: nn.Module, outputs: Sequence[str], batches: Sequence[Any], forward: Forward
) -> dict[str, Moments]:
    """Output projection -> the moments of what it reads and what it puts out, positions weighted as for `goals_of`."""
    found: dict[str, Moments] = {}
    for number, batch in enumerate(batches):
        with _observed(model, outputs, batch, forward) as (runs, returned):
            gradients, _ = _gradients(runs, returned, number)
        for run, gradient in zip(runs, gradients, strict=True):
            weight = _weight(run.output, gradient).flatten()
            one = Moments.of(run.input.detach().flatten(0, -2), run.output.detach().flatten(0, -2), weight)
            found[run.name] = found[run.name] + one if run.name in found else one
    return found


def _check_ran(runs: Sequence[_Run], outputs: Sequence[str]) -> None:
    if not {run.name for run in runs} & set(outputs):
        raise CalibrationError("forward(teacher, batch) ran none of the teacher's attention layers")


def _from(goals: Mapping[str, Goal], first: Collection[str]) -> dict[str, Goal]:
    order = list(goals)
    start = min((order.index(name) for name in first if name in goals), default=len(order))
    return {name: goals[name] for name in order[start:]}


@contextmanager
def _observed(
    model: nn.Module, names: Sequence[str], batch: Any, forward: Forward, silent: Collection[nn.Module] = ()
) -> Iterator[tuple[list[_Run], dict[str, Tensor]]]:
    """The layers' runs in their order, and what `forward` returned; gradients are to be computed within the context.

    A model that checkpoints its activations runs parts of itself again then, and must find what it found before.
    """
    runs: list[_Run] = []
    waiting: list[_Run] = []
    over = False

    def after(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and not output.requires_grad:
                output.requires_grad_()
            if not over:
                runs.append(_Run(name, args[0], output))
                waiting.append(runs[-1])
            return output

        return hook

    def before(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            read = next((one for one in args if isinstance(one, Tensor)), None)
            for run in [one for one in waiting if not over and read is not None and one.output.shape == read.shape]:
                run.reader, run.read = name, read
                waiting.remove(run)

        return hook

    with ExitStack() as hooks, torch.enable_grad(), nothing_compiled(), no_reentrant_checkpoints():
        for name in names:
            hooks.enter_context(hooked(model.get_submodule(name), after(name)))
        for name, module in model.named_modules():
            is_leaf = next(module.children(), None) is None and next(module.parameters(), None) is not None
            if is_leaf and module not in silent:
                hooks.enter_context(hooked(module, before(name), before=True))
        returned = tensors_in(forward(model, batch))
        over = True
        yield runs, returned


def _gradients(
    runs: Sequence[_Run], returned: Mapping[str, Tensor], number: int
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Of a random combination of what was returned: by each run's output, and by what was read after it."""
    wanted = [*(run.output for run in runs), *(run.read for run in runs if run.read is not None)]
    found: Sequence[Tensor | None] = [None] * len(wanted)
    differentiable = [tensor for tensor in returned.values() if tensor.requires_grad]
    if differentiable and all(tensor.requires_grad for tensor in wanted):
        generator = torch.Generator().manual_seed(number)
        combination = sum(_combined(tensor, generator) for tensor in differentiable)
        assert isinstance(combination, Tensor)
        found = torch.autograd.grad(combination, wanted, allow_unused=True, materialize_grads=True)
    rest = iter(found[len(runs) :])
    return list(found[: len(runs)]), [None if run.read is None else next(rest) for run in runs]


def _combined(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A random combination of its entries, as if their root mean square were 1."""
    signs = torch.randint(2, tensor.shape, generator=generator).to(tensor) * 2 - 1
    size = tensor.detach().double().square().mean().sqrt().clamp_min(1e-30)
    return (tensor * signs).double().sum() / size


def _found(
    runs: Sequence[_Run],
    by_output: Sequence[Tensor | None],
    by_read: Sequence[Tensor | None],
    others: Collection[str],
) -> dict[str, Goal]:
    """Empty goals for the layers that have one, in the order in which they first run."""
    readers: dict[str, set[str | None]] = {}
    for run, one, other in zip(runs, by_output, by_read, strict=True):
        readers.setdefault(run.name, set()).add(run.reader if _same(one, other) else None)
    goals = {name: Goal(next(iter(found)) if len(found) == 1 else None) for name, found in readers.items()}
    inputs = [id(run.input) for run in runs]  # all are held, so that no two share one
    for run in reversed(runs):
        goals[run.name].source = inputs.index(id(run.input))
    return {name: goal for name, goal in goals.items() if goal.reader is not None or name not in others}


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """If the gradients by an output and by what is read later are equal, the one is added into the other."""
    if one is None or other is None or not bool(one.any()):
        return False
    return bool((one - other).abs().max() <= SAME * other.abs().max())


def _add(goal: Goal, run: _Run, gradient: Tensor | None, number: int) -> None:
    value = run.output if goal.reader is None else run.read
    if value is None or not value.isfinite().all():
        raise CalibrationError(
            f"batch {number}: in the teacher there are NaN or infinite values after {run.name!r}; look for them in the "
            "batch or in the model's weights"
        )
    if goal.kept:
        goal.values[number].append(value.detach().clone())
    goal.weights[number].append(_weight(value, gradient))


def _weight(output: Tensor, gradient: Tensor | None) -> Tensor:
    """How much every position counts, (...), float64."""
    if gradient is None or not gradient.isfinite().all():
        return torch.ones(output.shape[:-1], dtype=torch.float64, device=output.device)
    return gradient.double().square().sum(-1)


def outputs_of(
    linears: Mapping[str, nn.Module], counts: Mapping[str, int], run: Callable[[], Any]
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Name -> what a layer reads and puts out in its first runs, `counts` of them; the pass ends with the last."""
    ran: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in linears}

    def after(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            ran[name].append((args[0], output))
            if all(len(ran[one]) >= count for one, count in counts.items()):
                raise _ReachedError

        return hook

    with ExitStack() as hooks, suppress(_ReachedError), nothing_compiled():
        for name, linear in linears.items():
            hooks.enter_context(hooked(linear, after(name)))
        run()
    return {name: found[: counts[name]] for name, found in ran.items()}


def runs_of(
    linear: nn.Module,
    reader: nn.Module | None,
    count: int,
    run: Callable[[], Any],
    *,
    entered: nn.Module | None = None,
) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """What a layer reads and puts out in its first `count` runs, and what the reader reads after each of them.

    The pass ends there.

    Args:
        run: runs the model.
        entered: a module whose entries count in place of the layer's runs, which need not be any.
    """
    ran: list[tuple[Tensor, Tensor]] = []
    reads: list[Tensor] = []
    begun = 0

    def enter(*_: Any) -> None:
        nonlocal begun
        begun += 1

    def after(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        ran.append((args[0], output))
        if entered is None:
            enter()
        if reader is None and begun == count:
            raise _ReachedError

    def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if begun > len(reads):
            reads.append(next(one for one in args if isinstance(one, Tensor)))
        if len(reads) == count:
            raise _ReachedError

    with ExitStack() as hooks, suppress(_ReachedError), nothing_compiled():
        hooks.enter_context(hooked(linear, after))
        if entered is not None:
            hooks.enter_context(hooked(entered, enter, before=True))
        if reader is not None:
            hooks.enter_context(hooked(reader, before, before=True))
        run()
    return ran, reads
