"""The proof that slicing is masking, on a model and inputs of one's own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mha.pruning.masking import eval_mode, masked
from mha.pruning.slicing import prune
from mha.runtime.locking import exclusive
from mha.runtime.nests import leaves
from mha.values.errors import EquivalenceError, MhaError
from mha.values.plan import HeadPlan

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
ROUGH = 5e-2  # for half precision, and for what is coarser still


@exclusive("mha.check")
def check(
    model: nn.Module,
    plan: HeadPlan,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    atol: float | None = None,
) -> float:
    """Prove that slicing is masking: the largest |masked - sliced| over all outputs for these inputs.

    The masked and the sliced model run in eval mode without gradients; the given one is left as it was. A value that is
    infinite in one of them must be so in the other.

    Args:
        args, kwargs: what both models are called with.
        atol: the largest difference allowed, as it is. By default it goes by the values of each output: 1e-10 in
            float64, 1e-5 in float32 and 5e-2 in half precision, times the largest |masked| among the values that
            differ, or times 1 where that is smaller.

    Raises:
        EquivalenceError: the difference exceeds what is allowed, outputs differ in shape or are NaN, or there are no
            floating-point outputs or not the same in both.
        PlanError: the plan names a layer or head that is not there, or keeps heads that slicing can't keep alone.
        UnsupportedModule: the plan names a module of no known family, or one that can't be sliced.
        MhaError: a parameter of the model is on the meta device, without data, or the model can't be copied.
        BusyError: another thread has the model, and waiting for it would not end.

    Example:
        >>> attention, x = mha.MultiHeadAttention.square(8, 4), torch.randn(2, 5, 8)
        >>> mha.check(attention, mha.HeadPlan({"": (0, 3)}), (x, x, x)) < 1e-5
        True
    """
    if empty := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise MhaError(
            f"check compares outputs, and {empty[0]} is on the meta device, without data: load weights first"
        )
    pruned = prune(model, plan).eval()
    with eval_mode(model), torch.no_grad():
        sliced = tensors_in(pruned(*args, **(kwargs or {})))
        with masked(model, plan):
            expected = tensors_in(model(*args, **(kwargs or {})))
    if not expected or expected.keys() != sliced.keys():
        raise EquivalenceError(f"nothing to compare: masked gives {list(expected)}, sliced gives {list(sliced)}")
    return max(_difference(path, reference, sliced[path], atol) for path, reference in expected.items())


def tensors_in(output: Any, path: str = "output") -> dict[str, Tensor]:
    """Every floating-point tensor in a nest of sequences and mappings, by where it is: "output[0]['logits']".

    Args:
        output: the nest, or a tensor; whatever else is in it is left out.
        path: what each key begins with.
    """
    return {
        path + "".join(f"[{key!r}]" for key in keys): leaf
        for keys, leaf in leaves(output, containers=(Sequence, Mapping))
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    }


def _difference(path: str, masked: Tensor, sliced: Tensor, atol: float | None) -> float:
    """The largest |masked - sliced| of one output tensor; 0 where all values are equal.

    Args:
        path: where the tensor is in the model's output, as `tensors_in` says it, for the error.
        masked, sliced: that output of the masked and of the sliced model.
        atol: the largest difference allowed; None for what `check` says of its default.

    Raises:
        EquivalenceError: the difference is more than is allowed, or NaN, or the shapes differ.
    """
    if masked.shape != sliced.shape:
        raise EquivalenceError(f"{path}: masked has shape {tuple(masked.shape)}, sliced {tuple(sliced.shape)}")
    expected, actual = masked.double(), sliced.double()
    differing = expected != actual  # fill values and infinities at the same places are no measure of size
    if not differing.any():
        return 0.0
    difference = (expected - actual)[differing].abs().max().item()
    size = expected[differing].abs().max().item()
    tolerance = TOLERANCE.get(masked.dtype, ROUGH)
    allowed = tolerance * max(1.0, size if size < float("inf") else 1.0) if atol is None else atol
    if not difference <= allowed:
        of = f" ({tolerance:g} of values up to {size:.3g})" if atol is None else ""
        raise EquivalenceError(f"{path}: sliced differs from masked by {difference:.3g}, allowed is {allowed:.3g}{of}")
    return float(difference)
