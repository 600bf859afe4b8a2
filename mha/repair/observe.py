"""One whole pass over a batch, watched: what layers read and put out, which module reads that next, and gradients.

The gradients are those of a random combination of all that `forward` returns. They tell how much each token of a
layer's output matters to what the model puts out: not at all, for padding that is masked in the end.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mha.families import AttentionLayer
from mha.importance.running.shard import contents
from mha.pruning.equivalence import tensors_in
from mha.pruning.masking import nothing_compiled, on_context
from mha.runtime.activation_checkpoints import no_reentrant_checkpoints
from mha.runtime.inference_tensors import usable_batch
from mha.runtime.undoing import hooked
from mha.values.errors import CalibrationError

Forward = Callable[[nn.Module, Any], Any]  # (model, batch) -> what matters of the model's output


@dataclass
class Run:
    """One run of a layer, and the next module that reads something of its output's shape.

    Attributes:
        name: of the layer.
        input: what the layer reads.
        output: what it puts out.
        reader: the name of the next module that reads a tensor of the output's shape; None where there is none.
        read: that tensor.
    """

    name: str
    input: Tensor
    output: Tensor
    reader: str | None = None
    read: Tensor | None = None


def held_batches(batches: Any) -> list[Any]:
    """The calibration batches, read once and kept, in a form of which gradients can be taken.

    Raises:
        CalibrationError: there are none.
    """
    kept = [usable_batch(batch) for batch in contents(batches or ())]
    if not kept:
        raise CalibrationError("the calibration set is empty: expected at least one batch")
    return kept


@contextmanager
def calling_outputs(layers: Mapping[str, AttentionLayer]) -> Iterator[None]:
    """Within the context every attention layer calls its output projection as a module, so that hooks on it run."""
    with ExitStack() as hooks:
        for layer in layers.values():
            hooks.enter_context(on_context(layer, lambda context: context))
        yield


@contextmanager
def observed(
    model: nn.Module, names: Sequence[str], batch: Any, forward: Forward, silent: Collection[nn.Module] = ()
) -> Iterator[tuple[list[Run], dict[str, Tensor]]]:
    """Run `forward` on the batch; yield all runs of the layers `names`, in order, and the tensors it returned, by path.

    Gradients are to be computed within the context: a model that checkpoints its activations runs parts of itself
    again then, and must find what it found before.

    Args:
        silent: modules that are never taken for a run's reader.
    """
    runs: list[Run] = []
    waiting: list[Run] = []  # those whose output nothing has read yet
    over = False

    def after(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and not output.requires_grad:
                output.requires_grad_()
            if not over:
                runs.append(Run(name, args[0], output))
                waiting.append(runs[-1])
            return output

        return hook

    def before(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            read = first_tensor(args)
            if over or read is None:
                return
            for run in [run for run in waiting if run.output.shape == read.shape]:
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


def gradients(
    runs: Sequence[Run], returned: Mapping[str, Tensor], number: int
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of a random combination of what was returned, by each run's output, and by what was read after it.

    They are None where what was returned can't be differentiated, and for a run after which nothing was read.

    Args:
        number: of the batch, which seeds the combination.
    """
    by = [*(run.output for run in runs), *(run.read for run in runs if run.read is not None)]
    slopes: Sequence[Tensor | None] = [None] * len(by)
    differentiable = [tensor for tensor in returned.values() if tensor.requires_grad]
    if differentiable and all(tensor.requires_grad for tensor in by):
        generator = torch.Generator().manual_seed(number)
        combination = sum(_combined(tensor, generator) for tensor in differentiable)
        assert isinstance(combination, Tensor)
        slopes = torch.autograd.grad(combination, by, allow_unused=True, materialize_grads=True)
    by_read = iter(slopes[len(runs) :])
    return list(slopes[: len(runs)]), [None if run.read is None else next(by_read) for run in runs]


def position_weights(output: Tensor, gradient: Tensor | None) -> Tensor:
    """How much every token of an output (…, o) counts: the gradient's squared norm there, (…), float64.

    It estimates ‖∂(returned)/∂(output)‖² (Hutchinson 1990). Without a gradient, or with one that is NaN or infinite
    somewhere, all tokens count once.
    """
    if gradient is None or not all_finite(gradient):
        return torch.ones(output.shape[:-1], dtype=torch.float64, device=output.device)
    return gradient.double().square().sum(-1)


def all_finite(*tensors: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in the tensors; a twentieth of the time of `isfinite` on a CPU."""
    ends = [float(end) for tensor in tensors if tensor.numel() for end in tensor.detach().aminmax()]
    return all(map(math.isfinite, ends))  # NaN comes out of aminmax wherever it is


def first_tensor(args: Sequence[Any]) -> Tensor | None:
    """The first tensor among a module's positional inputs; None if there is none."""
    return next((argument for argument in args if isinstance(argument, Tensor)), None)


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """1 and -1 at random, of the tensor's shape, dtype and device; made in place, since logits are large."""
    return torch.empty(like.shape).bernoulli_(generator=generator).mul_(2).sub_(1).to(like)


def root_mean_square(tensor: Tensor) -> float:
    """The root of the mean of the tensor's squares; 0 of none."""
    norm = torch.linalg.vector_norm(tensor.detach(), dtype=torch.promote_types(tensor.dtype, torch.float32))
    return float(norm) / math.sqrt(max(tensor.numel(), 1))


def _combined(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The sum of the tensor's entries with random signs, as if their root mean square were 1; a scalar as it is."""
    if tensor.numel() == 1:  # a loss or a distance, which may be as small as it likes
        return tensor.double().sum()
    size = root_mean_square(tensor)
    return (tensor * random_signs(tensor, generator)).double().sum() / max(size, 1e-30)
