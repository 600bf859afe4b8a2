"""WavLM: a position bias that one layer makes for all that follow, and that each head gates by its part of the input.

The gate (WavLM, 2022, section 3.2) splits the input into parts as if it were heads already, and each head reads the
part that it read when all heads were there. torch's functional form, which the original calls, derives the width of a
head from the model's width: a masked or sliced module computes attention itself.
"""

from typing import Any, cast

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mha.families.base.description import Family
from mha.families.base.emptied import USES
from mha.families.base.find import register_convention
from mha.families.base.gathering import of_heads
from mha.families.reading.explain import Projections, describe, head_width, is_from_transformers
from mha.families.reading.source import UnclearError
from mha.runtime.generated_classes import Members, making_class, whole
from mha.values.layout import Axis
from mha.values.plan import core_lineage

GATE = {"gru_rel_pos_const", "gru_rel_pos_linear", "q_proj", "k_proj", "v_proj", "out_proj"}


@register_convention
def gated_bias(module: nn.Module) -> Family | str | None:
    """Describe a module of transformers with WavLM's gated position bias.

    Returns:
        The description; the reason why such a module is refused, as where its output projection does not read heads of
        the width that an attribute gives; None for any other module.
    """
    if not has_gated_bias(module):
        return None
    d, width = head_width(module), int(cast(Any, module).out_proj.in_features)
    try:
        if not d or width % d:
            raise UnclearError(f"an output that reads {width} features does not read heads of width {d}")
        rows: dict[str, Axis] = {"q_proj": ("(h g d)",), "k_proj": ("(h d)",), "v_proj": ("(h d)",)}
        sizes = {"h": width // d, "g": 1, "d": d, "e": d}
        kept_whole, inputs = ("gru_rel_pos_linear", "rel_attn_embed"), frozenset({"position_bias", "index"})
        projections = Projections(
            "q_proj … out_proj + gated bias",
            "",
            rows,
            "out_proj",
            sizes,
            kept_whole,
            inputs,
            unread=frozenset({"embed_dim"}),
        )
        kind = whole(module)
        return describe(module, projections, replacement=with_gated_bias(kind), empty=without_gated_bias(kind))
    except UnclearError as reason:
        return str(reason)


def has_gated_bias(module: nn.Module) -> bool:
    """Whether the module is of transformers and has parameters, or submodules with some, of all the names in `GATE`."""
    held = {name.partition(".")[0] for name, _ in module.named_parameters()}
    return is_from_transformers(module) and held >= GATE


@making_class
def with_gated_bias(kind: Any) -> tuple[str, Members]:  # noqa: ARG001
    """A subclass for any number of heads; it takes and returns the position bias of all original ones, (b h, q, k)."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        index: int = 0,  # noqa: ARG001
        **kwargs: Any,  # noqa: ARG001
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = hidden_states.shape[0]
        position_bias = _made(self, hidden_states, position_bias)
        bias = rearrange(of_heads(self, "position_bias", position_bias, -3), "(b h) q k -> b h q k", b=batch)
        parts = rearrange(hidden_states, "b q (h d) -> b h q d", d=self.head_dim)
        if (lineage := core_lineage(self)) is not None:
            parts = parts[:, list(lineage.heads)]
        first, second = rearrange(self.gru_rel_pos_linear(parts), "... (s f) -> s ... f", s=2).sum(-1).sigmoid()
        gate = first * (second * self.gru_rel_pos_const.squeeze(-1) - 1.0) + 2.0

        q, k, v = (linear(hidden_states) for linear in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (rearrange(features, "b n (h d) -> b h n d", d=self.head_dim) for features in (q, k, v))
        scores = q @ k.transpose(-1, -2) * self.scaling + gate.unsqueeze(-1) * bias
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask.ne(1)[:, None, None], float("-inf"))
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        output = self.out_proj(rearrange(weights @ v, "b h q d -> b q (h d)"))
        return output, weights.mean(dim=1, keepdim=True).expand_as(weights), position_bias

    return "OfFewerHeads", {"forward": forward}


@making_class
def without_gated_bias(kind: Any) -> tuple[str, Members]:  # noqa: ARG001
    """A subclass for no heads, which still makes, or hands on, the position bias of all original ones."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG001
        position_bias: Tensor | None = None,
        index: int = 0,  # noqa: ARG001
        **kwargs: Any,  # noqa: ARG001
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, _ = hidden_states.shape
        weights = hidden_states.new_zeros(batch, 0, length, length)
        return self.out_proj_without_heads(hidden_states), weights, _made(self, hidden_states, position_bias)

    return "WithoutHeads", {"forward": forward, USES: frozenset({"out_proj_without_heads", "rel_attn_embed"})}


def _made(module: Any, hidden: Tensor, position_bias: Tensor | None) -> Tensor:
    """The position bias of all original heads, (b h, q, k): the one given, or else one that this layer makes."""
    if position_bias is not None:
        return position_bias
    batch, length, _ = hidden.shape
    made: Tensor = module.compute_bias(length, length).repeat(batch, 1, 1)
    return made
