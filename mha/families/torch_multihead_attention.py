"""`torch.nn.MultiheadAttention`, with packed and with separate projections.

torch's functional form derives the width of a head from the model's width and so can't express fewer
heads: a masked or sliced module becomes `SlicedMultiheadAttention`, called in just the same way.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha.families.base.description import Family
from mha.families.base.find import register_family
from mha.layer.attention import attention_weights
from mha.layer.output_bias import OutputBias, tied_to
from mha.values.errors import ShapeError
from mha.values.plan import lineage_of


class SlicedMultiheadAttention(nn.MultiheadAttention):
    """A `torch.nn.MultiheadAttention` with any number of heads of its original width.

    It is never built anew: `mha.prune` and `mha.masked` turn an existing module into one. Arguments, defaults and
    shapes are torch's; returned attention weights are those of the heads still here, and so is their average. A mask
    per head may be given for the heads still here, or for all original ones. A row with every key masked gives zero
    context (torch gives NaN with `need_weights`). Nested tensors are padded and unpadded again.
    """

    shown_heads: tuple[int, ...] | None = None

    @property
    def _qkv_same_embed_dim(self) -> bool:
        # Keeps nn.TransformerEncoderLayer and nn.TransformerEncoder off their fused kernels, which read the packed
        # weight as if it had all heads. Whether the projections are packed shows in `in_proj_weight`.
        return False

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, value: bool) -> None:
        pass

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.is_nested:
            return self._forward_nested(query, key, value, need_weights, average_attn_weights)
        if is_causal and attn_mask is None:
            raise ShapeError("is_causal says that attn_mask is causal: give attn_mask too, as to nn.MultiheadAttention")
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        output, weights = self._attend(query, key, value, key_padding_mask, attn_mask, need_weights)
        if weights is not None and average_attn_weights:
            weights = _mean_over_heads(weights)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The output (b, q, e) and, with `need_weights`, the weights (b, h, q, k); all inputs are batch first."""
        q, k, v = self._project(query, key, value)
        mask = self._mask(key_padding_mask, attn_mask, q, key.shape[1], k.shape[2])
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
            return self.out_proj(context.transpose(1, 2).flatten(2)), None
        weights = F.dropout(attention_weights(q, k, mask), dropout)
        output = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        if not torch.jit.is_scripting():
            weights = weights if self.shown_heads is None else weights[:, list(self.shown_heads)]
        return output, weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (b, h, q, d), k and v (b, h, k, d), with the extra key and value that the module adds."""
        if self.in_proj_weight is not None:
            w_q, w_k, w_v = self.in_proj_weight.chunk(3)
        else:
            w_q, w_k, w_v = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        b_q, b_k, b_v = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = F.linear(query, w_q, b_q), F.linear(key, w_k, b_k), F.linear(value, w_v, b_v)
        batch = q.shape[0]
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(batch, -1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.expand(batch, -1, -1)], dim=1)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        q, k, v = (features.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for features in (q, k, v))
        return q, k, v

    def _mask(
        self, key_padding_mask: Tensor | None, attn_mask: Tensor | None, q: Tensor, own_keys: int, all_keys: int
    ) -> Tensor | None:
        """Both masks as one that is added to the scores, 0 for the module's extra keys; None where nothing is masked.

        Args:
            own_keys: how many keys the masks are for.
            all_keys: how many there are with the extra ones.
        """
        added: Tensor | None = None
        if key_padding_mask is not None:
            added = _additive(key_padding_mask, q.dtype)[:, None, None, :]
        if attn_mask is not None:
            per_head = _additive(attn_mask, q.dtype)
            per_head = per_head if attn_mask.dim() == 2 else self._gather_heads(per_head, q.shape[0])
            added = per_head if added is None else added + per_head
        if added is None:
            return None
        return F.pad(added, (0, all_keys - own_keys))

    @torch.jit.unused
    def _gather_heads(self, attn_mask: Tensor, batch: int) -> Tensor:
        """The mask as (b, h, q, k) for the heads still here, given as (b·h, q, k) for them or all original ones.

        Raises:
            ShapeError: it is for neither.
        """
        lineage = lineage_of(self)
        heads = attn_mask.shape[0] // batch
        if attn_mask.shape[0] == batch * self.num_heads:
            return attn_mask.unflatten(0, (batch, self.num_heads))
        if lineage is None or attn_mask.shape[0] != batch * lineage.total_heads:
            total = "" if lineage is None else f", or ({batch * lineage.total_heads}, query, key) for all original ones"
            raise ShapeError(
                f"attn_mask: expected (query, key), or ({batch * self.num_heads}, query, key) for the "
                f"{self.num_heads} heads still here{total}; got {tuple(attn_mask.shape)}"
            )
        return attn_mask.unflatten(0, (batch, heads))[:, list(lineage.heads)]

    @torch.jit.unused
    def _forward_nested(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, average_attn_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        if query is not key or key is not value:
            raise ShapeError("nested tensors: only self-attention is supported, as by nn.MultiheadAttention")
        lengths = torch.tensor([len(example) for example in query.unbind()], device=query.device)
        padded = torch.nested.to_padded_tensor(query, 0.0)
        ignored = torch.arange(padded.shape[1], device=query.device) >= lengths[:, None]
        if not self.batch_first:
            raise ShapeError("nested tensors need batch_first=True, as in nn.MultiheadAttention")
        output, weights = self.forward(padded, padded, padded, ignored, need_weights, None, average_attn_weights)
        examples = [tokens[:length] for tokens, length in zip(output, lengths.tolist(), strict=True)]
        return torch.nested.as_nested_tensor(examples), weights


class EmptiedMultiheadAttention(SlicedMultiheadAttention):
    """A `torch.nn.MultiheadAttention` without heads: it returns its output's bias for each query, and empty weights."""

    _mha_uses = frozenset({"out_proj_without_heads"})
    extra_keys: int = 0  # that a module with heads adds to those it is given
    if TYPE_CHECKING:  # TorchScript would take it for a type of its own
        out_proj_without_heads: OutputBias

    def before_emptied(self) -> None:
        """Note how many keys the module adds of its own, and delete the parameters whose names are properties here."""
        self.extra_keys = int(self.bias_k is not None) + int(self.add_zero_attn)
        del self._parameters["in_proj_weight"], self._parameters["in_proj_bias"]  # below they are properties

    # nn.TransformerEncoder asks the projections for their devices and gradients before it calls the module.
    # TorchScript, which knows no such values, passes over them.
    __jit_unused_properties__ = ("in_proj_weight", "in_proj_bias", "out_proj")

    @property
    def in_proj_weight(self) -> Any:  # type: ignore[override]
        return self.out_proj_without_heads.bias

    @property
    def in_proj_bias(self) -> Any:  # type: ignore[override]
        return self.out_proj_without_heads.bias

    @property
    def out_proj(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(weight=self.in_proj_weight, bias=self.in_proj_bias)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,  # noqa: ARG002
        attn_mask: Tensor | None,  # noqa: ARG002
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        keys = key.shape[1] + self.extra_keys
        weights = query.new_zeros(query.shape[0], 0, query.shape[1], keys) if need_weights else None
        output: Tensor = self.out_proj_without_heads(query)
        if not torch.jit.is_scripting():
            output = tied_to(output, {"key": key, "value": value})
        return output, weights


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """One of torch's masks (boolean True = ignore; floating = added to the scores) as one that is added."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
    return mask.to(dtype)


def _mean_over_heads(weights: Tensor) -> Tensor:
    """The mean of weights (b, h, q, k) over heads, (b, q, k); zero where no head is left."""
    return weights.mean(dim=1) if weights.shape[1] else weights.sum(dim=1)


def _sizes(module: nn.Module) -> dict[str, int]:
    """The size of each letter in the axes' patterns, as `Family.sizes` returns it for the module."""
    layer = cast(Any, module)
    return {"h": layer.num_heads, "g": 1, "d": layer.head_dim}


_HEADS, _PACKED = ("(h d)",), ("(h d)", "(h d)", "(h d)")

register_family(
    Family(
        name="torch.nn.MultiheadAttention",
        matches=lambda module: type(module) in (nn.MultiheadAttention, SlicedMultiheadAttention),
        sizes=_sizes,
        columns={"out_proj": ("(h g d)",)},
        output="out_proj",
        tensors={
            "in_proj_weight": {0: _PACKED},
            "in_proj_bias": {0: _PACKED},
            "q_proj_weight": {0: _HEADS},
            "k_proj_weight": {0: _HEADS},
            "v_proj_weight": {0: _HEADS},
            "bias_k": {2: _HEADS},
            "bias_v": {2: _HEADS},
        },
        counts={"num_heads": "h g"},
        replacement=SlicedMultiheadAttention,
        without_heads=EmptiedMultiheadAttention,
    )
)
