"""Multi-head attention whose head width is independent of the model width.

That independence is what makes a pruned layer just another constructor call: five heads of width 16
in a model of width 128 is `MultiHeadAttention.square(128, 5, head_dim=16)`.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha.layer.checks import check_mask, check_sizes, shared_width
from mha.layer.output_bias import OutputBias, tied_to
from mha.layer.packing import Packing, attend_packed, clear
from mha.values.errors import ShapeError
from mha.values.plan import lineage_of


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) with separate projections.

    Grouped-query attention (Ainslie et al. 2023) when `num_kv_heads` < `num_heads`: query head `i`
    reads key/value head `i // (num_heads // num_kv_heads)`.

    Args:
        key_size, query_size, value_size: widths of the three inputs.
        num_hiddens: width of the output.
        num_heads: query heads; 0 leaves a layer that adds only the bias of its output.
        dropout: probability of dropping an attention weight while training.
        bias: whether the four projections have one.
        head_dim: width of one head; `num_hiddens // num_heads` unless given.
        num_kv_heads: key/value heads; as many as query heads unless given.

    Attributes:
        shown_heads: the positions of the heads whose weights `need_weights` returns; None for all.
        packs: whether nothing is computed for padding where `query_lens` says which queries are real.

    The parameters are those of `W_q`, `W_k`, `W_v`, `W_o` (`nn.Linear`), so the `state_dict` of the
    module of this name in Dive into Deep Learning loads unchanged. Without heads there is only the bias of the output.

    Example:
        >>> layer = mha.MultiHeadAttention(24, 32, 24, 32, num_heads=4)
        >>> queries, memory = torch.randn(2, 5, 32), torch.randn(2, 7, 24)
        >>> output, weights = layer(queries, memory, memory, torch.tensor([7, 3]), need_weights=True)
        >>> output.shape, weights.shape
        (torch.Size([2, 5, 32]), torch.Size([2, 4, 5, 7]))
        >>> mha.MultiHeadAttention.square(32, num_heads=4)
        MultiHeadAttention(
          num_heads=4, head_dim=8, dropout=0.0
          (W_q): Linear(in_features=32, out_features=32, bias=False)
          (W_k): Linear(in_features=32, out_features=32, bias=False)
          (W_v): Linear(in_features=32, out_features=32, bias=False)
          (W_o): Linear(in_features=32, out_features=32, bias=False)
        )

    Raises:
        ShapeError: sizes that do not divide, or inputs that do not have the widths declared here.
    """

    shown_heads: tuple[int, ...] | None = None  # whose weights to return; None: of all
    packs: bool = True  # whether padding is left out where `query_lens` says what is real
    _mha_uses = frozenset({"W_o_without_heads"})  # what is left of it when it loses its last head

    def __init__(
        self,
        key_size: int,
        query_size: int,
        value_size: int,
        num_hiddens: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = False,
        *,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.head_dim = shared_width(num_hiddens, num_heads) if head_dim is None else head_dim
        self.dropout = dropout
        check_sizes(self.num_heads, self.num_kv_heads, self.head_dim, dropout)
        self.input_sizes = query_size, key_size, value_size
        if num_heads == 0:
            self.W_o_without_heads = OutputBias(num_hiddens, nn.Parameter(torch.zeros(num_hiddens)) if bias else None)
            return
        inner, inner_kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.W_q = nn.Linear(query_size, inner, bias)
        self.W_k = nn.Linear(key_size, inner_kv, bias)
        self.W_v = nn.Linear(value_size, inner_kv, bias)
        self.W_o = nn.Linear(inner, num_hiddens, bias)

    @classmethod
    def square(
        cls,
        num_hiddens: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = False,
        *,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
    ) -> Self:
        """A layer whose three inputs and output are all `num_hiddens` wide, as in self-attention.

        The other arguments are those of the class.
        """
        sizes = (num_hiddens,) * 4
        return cls(*sizes, num_heads, dropout, bias, head_dim=head_dim, num_kv_heads=num_kv_heads)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        valid_lens: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        need_weights: bool = False,
        query_lens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend from `queries` (b, q, e_q) to `keys` (b, k, e_k) and `values` (b, k, e_v).

        Masks combine by AND. A query that may see no key has zero context.

        Args:
            valid_lens: (b,) or (b, q), how many leading keys each example, or query, may see.
            attn_mask: broadcastable to (b, h, q, k). Boolean: True = attend. Floating: added to the
                scores. A pruned layer also takes a mask made for all of its original heads.
            is_causal: query `i` sees keys `0..i`, aligned top-left.
            need_weights: also return the attention weights, before dropout.
            query_lens: (b,), how many leading queries of each example are real. The output (and weights) of the
                others is zero, and unless there are other masks than `valid_lens` (b,) or weights to return, nothing
                is computed for padding at all: `layer(x, x, x, lens, query_lens=lens)`.

        Returns:
            The output, (b, q, num_hiddens), or with `need_weights` (output, weights (b, h, q, k)).

        Raises:
            ShapeError: inputs of other widths than the layer was made for, that don't belong together, or that masks or
                lengths do not fit; a mask that is neither boolean nor floating.
        """
        self._check_inputs(queries, keys, values)
        if query_lens is not None and query_lens.shape != (queries.shape[0],):
            raise ShapeError(
                f"query_lens: expected shape ({queries.shape[0]},), that is (batch,), got {tuple(query_lens.shape)}"
            )
        per_example = valid_lens is None or valid_lens.shape == (queries.shape[0],)
        if query_lens is not None and self.packs and per_example and attn_mask is None and not need_weights:
            return self._forward_packed(queries, keys, values, query_lens, valid_lens, is_causal)
        output, weights = self._forward_padded(queries, keys, values, valid_lens, attn_mask, is_causal, need_weights)
        if query_lens is not None:
            output, weights = clear(output, query_lens), None if weights is None else clear(weights, query_lens, dim=2)
        return output if weights is None else (output, weights)

    def _forward_padded(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        valid_lens: Tensor | None,
        attn_mask: Tensor | None,
        is_causal: bool,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and the weights where `need_weights`, computed for all tokens, padding or not."""
        batch, num_queries, num_keys = queries.shape[0], queries.shape[1], keys.shape[1]
        if self.num_heads == 0:
            weights = queries.new_zeros(batch, 0, num_queries, num_keys) if need_weights else None
            inputs = {"queries": queries, "keys": keys, "values": values}
            return tied_to(self.W_o_without_heads(queries), inputs), weights

        by_query, by_key = (
            (batch, num_queries, self.num_heads, self.head_dim),
            (batch, num_keys, self.num_kv_heads, self.head_dim),
        )
        q = self.W_q(queries).reshape(by_query).transpose(1, 2)  # not by einops, whose lookups took 12 µs of 600
        k = self.W_k(keys).reshape(by_key).transpose(1, 2)
        v = self.W_v(values).reshape(by_key).transpose(1, 2)
        fused_causal = is_causal and valid_lens is None and attn_mask is None and not need_weights
        mask = None if fused_causal else self._mask(q, num_keys, valid_lens, attn_mask, is_causal)
        dropout = self.dropout if self.training else 0.0

        weights = None
        if need_weights:
            weights = attention_weights(q, k, mask)
            per_group = self.num_heads // self.num_kv_heads
            context = F.dropout(weights, dropout) @ v.repeat_interleave(per_group, dim=1)
            weights = weights if self.shown_heads is None else weights[:, list(self.shown_heads)]
        else:
            grouped = self.num_kv_heads != self.num_heads
            context = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=fused_causal, enable_gqa=grouped
            )
        return self.W_o(context.transpose(1, 2).flatten(2)), weights

    def _forward_packed(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        query_lens: Tensor,
        valid_lens: Tensor | None,
        is_causal: bool,
    ) -> Tensor:
        """The output (b, q, num_hiddens), zero for padding, with nothing computed for padded queries and keys."""
        num_queries, num_keys = queries.shape[1], keys.shape[1]
        key_lens = torch.full((keys.shape[0],), num_keys) if valid_lens is None else valid_lens
        packing = Packing(query_lens, key_lens, num_queries, num_keys, queries.device)
        packed = packing.queries.pack(queries)
        if self.num_heads == 0:
            return packing.queries.unpack(self.W_o_without_heads(packed))
        same = keys is queries and packing.keys is packing.queries
        memory = packed if same else packing.keys.pack(keys)
        content = memory if values is keys else packing.keys.pack(values)
        q = self.W_q(packed).unflatten(-1, (self.num_heads, self.head_dim))
        k = self.W_k(memory).unflatten(-1, (self.num_kv_heads, self.head_dim))
        v = self.W_v(content).unflatten(-1, (self.num_kv_heads, self.head_dim))
        dropout = self.dropout if self.training else 0.0
        context = attend_packed(q, k, v, packing.groups, is_causal=is_causal, dropout=dropout)
        return packing.queries.unpack(self.W_o(context))

    def extra_repr(self) -> str:
        kv = "" if self.num_kv_heads == self.num_heads else f", num_kv_heads={self.num_kv_heads}"
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}{kv}, dropout={self.dropout}"

    def _mask(
        self, q: Tensor, num_keys: int, valid_lens: Tensor | None, attn_mask: Tensor | None, is_causal: bool
    ) -> Tensor | None:
        """All masks as one for (b, h, q, k), boolean (True = attend) or added to the scores; None without any.

        Raises:
            ShapeError: `valid_lens` or `attn_mask` has another shape than `forward` says, or the latter another dtype.
        """
        batch, _, num_queries, _ = q.shape
        mask = None
        if is_causal:
            mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q.device).tril()
        if valid_lens is not None:
            if valid_lens.shape not in ((batch,), (batch, num_queries)):
                raise ShapeError(
                    f"valid_lens: expected shape ({batch},) or ({batch}, {num_queries}), "
                    f"that is (batch,) or (batch, queries), got {tuple(valid_lens.shape)}"
                )
            lengths = valid_lens.to(q.device).reshape(batch, 1, -1, 1)
            inside = torch.arange(num_keys, device=q.device) < lengths
            mask = inside if mask is None else mask & inside
        if attn_mask is None:
            return mask
        attn_mask = self._gather_heads(attn_mask)
        check_mask(attn_mask, (batch, self.num_heads, num_queries, num_keys))
        attn_mask = torch.atleast_2d(attn_mask)  # the fused kernel takes no less
        if attn_mask.dtype == torch.bool:
            return attn_mask if mask is None else mask & attn_mask
        attn_mask = attn_mask.to(q.dtype)
        return attn_mask if mask is None else attn_mask.masked_fill(~mask, float("-inf"))

    def _gather_heads(self, attn_mask: Tensor) -> Tensor:
        """The part of a mask made for all original heads that is for the heads still here; any other mask as it is."""
        lineage = lineage_of(self)
        made_for_all = (
            lineage is not None
            and attn_mask.dim() >= 3
            and attn_mask.shape[-3] == lineage.total_heads != self.num_heads
            and attn_mask.shape[-3] != 1
        )
        if lineage is None or not made_for_all:
            return attn_mask
        return attn_mask[..., list(lineage.heads), :, :]

    def _check_inputs(self, queries: Tensor, keys: Tensor, values: Tensor) -> None:
        """Refuse inputs that the layer was not made for.

        Raises:
            ShapeError: an input has not three dimensions or not its declared width, batch sizes differ, or there are
                not as many keys as values.
        """
        widths = self.input_sizes
        try:
            (b, _, query_size), (b_k, k, key_size), (b_v, v, value_size) = queries.shape, keys.shape, values.shape
            fits = (query_size, key_size, value_size) == widths and b == b_k == b_v and k == v
        except ValueError:  # not three dimensions
            fits = False
        if not fits:
            raise ShapeError(
                "expected queries (b, q, {}), keys (b, k, {}), values (b, k, {}); got {}, {}, {}".format(
                    *widths, *(tuple(tensor.shape) for tensor in (queries, keys, values))
                )
            )


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d), shape (b, h, q, k), from q (b, h, q, d) and k (b, h or a divisor of it, k, d).

    `mask` as in `scaled_dot_product_attention`: boolean (True = attend) or added to the scores.
    A row with every key masked is zero, not NaN.
    """
    k = k.repeat_interleave(q.shape[1] // max(k.shape[1], 1), dim=1)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is None:
        return scores.softmax(dim=-1)
    scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    blind = (scores == float("-inf")).all(dim=-1, keepdim=True)
    return scores.masked_fill(blind, 0.0).softmax(dim=-1).masked_fill(blind, 0.0)
