"""What some modules do after their output projection: add their input, normalise the sum.

No head takes part in that, so it stays as it is; but a layer without heads has to do it too.
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
    """What a module does after its output projection.

    Attributes:
        added: the argument of forward that is added to the output; None for none.
        norm: the name of the submodule that normalises the sum; None where none does: then dropout with probability
            `module.hidden_dropout` is applied to the output before the argument is added, if one is.
    """

    added: str | None = None
    norm: str | None = None

    def __call__(self, module: Any, output: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """The first value that the module returns, given what its output projection put out.

        Args:
            module: the one that this was read from; its submodule `norm` or its `hidden_dropout` is used.
            output: the output of the output projection, biased.
            arguments: those of the module's forward, by name.
        """
        if self.added is None:
            return output
        if self.norm is None:
            return arguments[self.added] + F.dropout(output, module.hidden_dropout, module.training)
        return module.get_submodule(self.norm)(arguments[self.added] + output)


NOTHING = AfterOutput()


def after_output(module: nn.Module) -> AfterOutput:
    """What the module's source does after its output projection; `NOTHING` where it does neither of two known things.

    These are to normalise `hidden_states + attn_output` with an `nn.LayerNorm`, and to add an argument by
    `dropout_add(output_tensor, …)`.
    """
    code = text(module)
    if (norm := NORMALISED_SUM.search(code)) and isinstance(getattr(module, norm[1], None), nn.LayerNorm):
        return AfterOutput("hidden_states", norm[1])
    if added := ADDED_RESIDUAL.search(code):
        return AfterOutput(added[1])
    return NOTHING
