"""timm's attention over a sequence of tokens.

These are `Attention`, `AttentionRope`, EVA's, BEiT's, Swin's, XCiT's, Twins' and what is written like them; Hiera's,
which pools its queries; and attention of a class token alone, as CaiT's. They are recognised by their code, which has
to say that all tokens are projected and which of them are given an output; the library need not be imported, and isn't.
"""

import re
from typing import Any

from torch import Tensor, nn

from mha.families.base.description import Family
from mha.families.base.emptied import USES
from mha.families.base.find import register_convention
from mha.families.fused_projections import describe_fused
from mha.families.reading.explain import is_from
from mha.families.reading.source import text
from mha.families.separate_projections import describe_separate
from mha.layer.output_bias import left_of
from mha.runtime.generated_classes import Members, making_class, whole

TOKENS = re.compile(r"^ *\w+, \w+, \w+ = x\.shape\b", re.MULTILINE)
PROJECTIONS = ("qkv", "q_proj", "k_proj", "v_proj", "q", "k", "v")
ENDS = re.compile(
    r"(?P<x>x|x_cls) = self\.proj\((?P=x)\)\n(?: +(?P=x) = self\.proj_drop\((?P=x)\)\n)? +return (?P=x)$", re.MULTILINE
)
POOLED = re.compile(r"if self\.q_stride > 1:\n +q = q\.view\(.*\)\.amax\(dim=\d\)")
OUTPUT = left_of("proj")
CLASS_TOKEN = "self.q(x[:, 0])"  # the only token with a query, and so with an output


@register_convention
def timm_attention(module: nn.Module) -> Family | str | None:
    """Describe an attention module of timm over a sequence of tokens, with fused or separate projections.

    Returns:
        The description; the reason why such a module is refused, as where it does something after its output
        projection; None for a module of another library, or without these projections.
    """
    if not is_from("timm", module):
        return None
    counts = {"heads": "h g"} if "heads" in vars(module) else {}
    empty = _without_heads(module)
    answer = describe_fused(module, counts=counts, empty=empty) or describe_separate(module, empty=empty)
    return (_why_not(module) or answer) if isinstance(answer, Family) else answer


def _why_not(module: nn.Module) -> str | None:
    """Why a module that has been described is refused after all; None where it is not.

    Its input must be a sequence of tokens, all projected (or, for queries, the class token), and nothing but dropout
    may follow its output projection.
    """
    code, name = text(module), type(module).__name__
    if not TOKENS.search(code):
        return f"{name} is not given a sequence of tokens"
    linears = [child for child, _ in module.named_children() if child in PROJECTIONS]
    if unused := [child for child in linears if not re.search(rf"self\.{child}(\.weight|\(x(\[:, 0\])?\))", code)]:
        return f"{name} does not project all tokens by {unused[0]}"
    return None if ENDS.search(code) else f"{name} does something after its output projection"


def _without_heads(module: nn.Module) -> type[nn.Module] | None:
    """The class without heads for a module that gives an output to some tokens only; None for any other module."""
    code = text(module)
    if CLASS_TOKEN in code:
        return without_heads_for_some(whole(module), False)
    return without_heads_for_some(whole(module), True) if POOLED.search(code) else None


@making_class
def without_heads_for_some(kind: Any, pooled: bool) -> tuple[str, Members]:  # noqa: ARG001
    """A subclass without heads that returns the output's bias for some tokens only.

    Args:
        pooled: whether those are as many tokens as queries are pooled to; otherwise only the first.
    """

    def forward(self: Any, x: Tensor) -> Tensor:
        outputs = x.shape[1] // self.q_stride if pooled else 1
        bias: Tensor = self.get_submodule(OUTPUT)(x[:, :outputs, :0])
        return bias

    return "WithoutHeads", {"forward": forward, USES: frozenset({OUTPUT})}
