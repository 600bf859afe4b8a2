"""What some modules do after their output projection: add their input, normalise the sum.

That is beyond the heads and stays as it is, but a layer without heads has to do it too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mha.families.reading.source import text

NORMALISED_SUM = re.compile(r"self\.(\w+)\((?:hidden_states \+ attn_output|attn_output \+ hidden_states)\)")
ADDED_RESIDUAL = re.compile(r"dropout_add\(output_tensor, (\w+), self\.hidden_dropout, self\.training\)")


@dataclass(frozen=True)
class AfterOutput:
    """The input that is added to the output, and the norm that takes the sum; None where there is none."""

    added: str | None = None
    norm: str | None = None

    def __call__(self, module: Any, output: Tensor, given: Mapping[str, Any]) -> Tensor:
        if self.added is None:
            return output
        if self.norm is None:
            return given[self.added] + F.dropout(output, module.hidden_dropout, module.training)
        return module.get_submodule(self.norm)(given[self.added] + output)


NOTHING = AfterOutput()


def after_output(module: nn.Module) -> AfterOutput:
    """What the module's own code does with the output of its projection."""
    code = text(module)
    if (norm := NORMALISED_SUM.search(code)) and isinstance(getattr(module, norm[1], None), nn.LayerNorm):
        return AfterOutput("hidden_states", norm[1])
    if added := ADDED_RESIDUAL.search(code):
        return AfterOutput(added[1])
    return NOTHING
