"""timm's attention over a sequence of tokens: `Attention`, `AttentionRope`, EVA's, BEiT's, Swin's and what is written
like them.

Recognised by the code, which has to say that all tokens are projected and that each of them is given an output; the
library need not be imported, and isn't.
"""

import re

from torch import nn

from mha.families.description import Family
from mha.families.explain import is_from
from mha.families.fused_projections import describe_fused
from mha.families.registry import register_convention
from mha.families.separate_projections import describe_separate
from mha.families.source import text

TOKENS = re.compile(r"^ *\w+, \w+, \w+ = x\.shape\b", re.MULTILINE)
PROJECTIONS = ("qkv", "q_proj", "k_proj", "v_proj", "q", "k", "v")
ENDS = re.compile(r"x = self\.proj\(x\)\n(?: +x = self\.proj_drop\(x\)\n)? +return x$", re.MULTILINE)


@register_convention
def timm_attention(module: nn.Module) -> Family | str | None:
    """The module's description, the reason why it is refused, or None if it is something else."""
    if not is_from("timm", module):
        return None
    found = describe_fused(module) or describe_separate(module)
    return (_why_not(module) or found) if isinstance(found, Family) else found


def _why_not(module: nn.Module) -> str | None:
    """What the code does not say; None where it says all."""
    code, name = text(module), type(module).__name__
    if not TOKENS.search(code):
        return f"{name} is not given a sequence of tokens"
    projections = [part for part, child in module.named_children() if part in PROJECTIONS]
    if some := [part for part in projections if not re.search(rf"self\.{part}(\.weight|\(x\))", code)]:
        return f"{name} does not project all tokens by {some[0]}"
    return None if ENDS.search(code) else f"{name} does something after its output projection"
