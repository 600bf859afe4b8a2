"""timm's LeViT: keys narrower than values, a bias for each head and distance, norms of what the linears put out.

Each head's queries, keys and values lie side by side. The norms are taken feature by feature, so their entries leave
with those of the linear before them. timm's code caches the biases once they have been computed; a masked or sliced
module computes them anew.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mha.families.base.description import Family
from mha.families.base.emptied import USES
from mha.families.base.find import register_convention
from mha.families.reading.source import text
from mha.layer.output_bias import left_of
from mha.runtime.generated_classes import Members, making_class, whole
from mha.values.layout import Axis

FUSED: Mapping[str, Axis] = {"qkv": ("(h n)",)}
APART: Mapping[str, Axis] = {"kv": ("(h m)",), "q.ln": ("(h g d)",)}  # AttentionDownsample, which asks for fewer tokens
SAYS = {  # by the first of the linears: what the forward must say
    "qkv": (
        "self.qkv(x).view(B, N, self.num_heads, -1).split([self.key_dim, self.key_dim, self.val_dim], dim=3)",
        "(attn @ v).transpose(1, 2).reshape(B, N, self.val_attn_dim)",
    ),
    "kv": (
        "self.kv(x).view(B, N, self.num_heads, -1).split([self.key_dim, self.val_dim], dim=3)",
        "self.q(x).view(B, -1, self.num_heads, self.key_dim)",
        "(attn @ v).transpose(1, 2).reshape(B, -1, self.val_attn_dim)",
    ),
}
BIASES = "self.attention_biases[:, self.attention_bias_idxs]"
ENDS = "x = self.proj(x)\n    return x"
NORM = ("weight", "bias", "running_mean", "running_var")


@register_convention
def levit_attention(module: nn.Module) -> Family | str | None:
    """Describe an attention module of timm's LeViT.

    Returns:
        The description; the reason why such a module is refused, as where it projects by convolutions, or its code
        lacks a line that is expected; None for any other module.
    """
    if not any(base.__module__ == "timm.models.levit" for base in type(module).__mro__):
        return None
    if "attention_biases" not in module._parameters:
        return None
    if vars(module).get("use_conv"):
        return f"{type(module).__name__} projects by convolutions, not by linears"
    axes = FUSED if "qkv" in dict(module.named_children()) else APART
    first, code = next(iter(axes)), text(module)
    if missing := next((line for line in (*SAYS[first], BIASES) if line not in code), None):
        return f"{type(module).__name__} does not compute {missing}"
    if f"    {ENDS}" not in code:
        return f"{type(module).__name__} does something after its output projection"
    return _described(module, axes)


def _described(module: nn.Module, axes: Mapping[str, Axis]) -> Family:
    """The description of a module; `axes` names its linears, each with the axis of its output features."""
    normalised = {f"{name}.bn.{held}": {0: axis} for name, axis in axes.items() for held in NORM}
    letters = {name: axis[0].strip("()") for name, axis in axes.items()}
    return Family(
        name=f"{' + '.join(axes)} … proj, biases of places",
        matches=lambda _: True,
        sizes=_sizes,
        rows={f"{name}.linear": axis for name, axis in axes.items()},
        columns={"proj.ln.linear": ("(h g e)",)},
        output="proj.ln.linear",
        tensors={**normalised, "attention_biases": {0: ("(h g)",)}},
        counts={
            "num_heads": "h g",
            "key_attn_dim": "h g d",
            "val_attn_dim": "h g e",
            **{f"{name}.bn.num_features": counted for name, counted in letters.items()},
        },
        replacement=with_own_biases(whole(module)),
        without_heads=without_heads(whole(module)),
    )


def _sizes(module: Any) -> dict[str, int]:
    """The size of each letter in the axes' patterns, as `Family.sizes` returns it for the module."""
    key, value = module.key_dim, module.val_dim
    return {"h": module.num_heads, "g": 1, "d": key, "e": value, "m": key + value, "n": 2 * key + value}


@making_class
def with_own_biases(kind: Any) -> tuple[str, Members]:  # noqa: ARG001
    """A subclass that computes the position biases anew, and reads none that were cached for other heads."""

    def get_attention_biases(self: Any, device: Any) -> Tensor:  # noqa: ARG001
        biases: Tensor = self.attention_biases[:, self.attention_bias_idxs]
        return biases

    return "OfFewerHeads", {"get_attention_biases": get_attention_biases}


@making_class
def without_heads(kind: Any) -> tuple[str, Members]:  # noqa: ARG001
    """A subclass for no heads: it normalises an output of zeros, for as many tokens as there are queries."""

    def forward(self: Any, x: Tensor) -> Tensor:
        zeros: Tensor = self.get_submodule(left_of("proj.ln.linear"))(x[:, : len(self.attention_bias_idxs), :0])
        normalised: Tensor = self.proj.ln.bn(zeros.flatten(0, 1)).reshape_as(zeros)
        return normalised

    return "WithoutHeads", {"forward": forward, USES: frozenset({"proj", "attention_bias_idxs"})}
