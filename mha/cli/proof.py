"""The proof that slicing computes what masking computes, in double precision where single can't tell."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mha.cli.inputs import CONTAINERS, Inputs
from mha.cli.settings import note
from mha.pruning.equivalence import check
from mha.runtime.nests import mapped
from mha.values.errors import EquivalenceError
from mha.values.plan import HeadPlan


class Proof(NamedTuple):
    """The largest |masked - sliced| over all outputs, and in which dtype it was computed where not in the model's."""

    difference: float
    dtype: str | None = None

    def sentence(self) -> str:
        """As "Slicing computes what masking computes, to 2.5e-06"."""
        where = f" in {self.dtype}" if self.dtype else ""
        close = f"to {self.difference:.1e}" if self.difference else "to the bit"
        return f"Slicing computes what masking computes, {close}{where}."


def proved(model: nn.Module, plan: HeadPlan, inputs: Inputs) -> Proof:
    """Compare the sliced with the masked model for these inputs.

    In a deep model, roundings of single precision grow beyond what `mha.check` allows. They are no fault of slicing if
    both agree in double precision, in which a copy of the model is then compared.

    Raises:
        EquivalenceError: they differ in double precision, too, or it can't be tried.
    """
    note("checking that slicing computes what masking computes")
    args, kwargs = inputs
    try:
        return Proof(check(model, plan, args, kwargs))
    except EquivalenceError as error:
        rounded = error
    note("single precision can't tell: comparing in double precision")
    try:
        precise = copy.deepcopy(model).double()
        return Proof(check(precise, plan, *mapped(inputs, _doubled, CONTAINERS)), "float64")
    except (RuntimeError, TypeError) as error:  # of memory, or of a device or kernel without double precision
        raise rounded from error


def _doubled(leaf: object) -> object:
    """A floating-point tensor in double precision; anything else as it is."""
    return leaf.to(torch.float64) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
