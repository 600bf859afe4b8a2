"""A module whose projections a processor object calls, as diffusers' `Attention` has them."""

import torch.nn.functional as F
from torch import Tensor, nn


class Processor:
    def __call__(
        self, attn: "Attention", hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask=None
    ) -> Tensor:
        residual = hidden_states
        input_ndim = hidden_states.ndim
        if input_ndim == 4:
            batch_size, channel, height, width = hidden_states.shape
            hidden_states = hidden_states.view(batch_size, channel, height * width).transpose(1, 2)
        if encoder_hidden_states is None:
            encoder_hidden_states = hidden_states
        query = attn.to_q(hidden_states)
        key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (query, key, value))
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        hidden_states = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        hidden_states = hidden_states.transpose(1, 2).flatten(2)
        hidden_states = attn.to_out[0](hidden_states)
        hidden_states = attn.to_out[1](hidden_states)
        if input_ndim == 4:
            hidden_states = hidden_states.transpose(-1, -2).reshape(batch_size, channel, height, width)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        hidden_states = hidden_states / attn.rescale_output_factor
        return hidden_states


class MixingProcessor(Processor):
    """Reads of the module what nobody has described."""

    def __call__(
        self, attn: "Attention", hidden_states: Tensor, encoder_hidden_states=None, attention_mask=None
    ) -> Tensor:
        return attn.to_out[0](attn.mix_heads(attn.to_v(hidden_states)))


def project(attn: "Attention", hidden_states: Tensor) -> Tensor:
    return attn.to_out[0](attn.to_v(hidden_states))


class HandingOn(Processor):
    def __call__(
        self, attn: "Attention", hidden_states: Tensor, encoder_hidden_states=None, attention_mask=None
    ) -> Tensor:
        return project(attn, hidden_states)


class Unfinished(Processor):
    def __call__(
        self, attn: "Attention", hidden_states: Tensor, encoder_hidden_states=None, attention_mask=None
    ) -> Tensor:
        return attn.to_out[0](attn.to_v(hidden_states)).tanh()


class WithParameters(nn.Module):
    """Has keys of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(3, 3)

    def __call__(self, attn: "Attention", hidden_states: Tensor) -> Tensor:
        return hidden_states


class Attention(nn.Module):
    def __init__(
        self, dim, heads, processor, *, other=None, residual=False, factor=1.0, norm=False, kv_heads=None
    ) -> None:
        super().__init__()
        width = dim // heads
        self.heads, self.processor, self.inner_dim = heads, processor, dim
        self.inner_kv_dim = width * (kv_heads or heads)
        self.to_q = nn.Linear(dim, dim)
        self.to_k, self.to_v = (nn.Linear(other or dim, self.inner_kv_dim, bias=False) for _ in range(2))
        self.norm_q = nn.LayerNorm(width) if norm else None
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Dropout(0.1)])
        self.residual_connection, self.rescale_output_factor = residual, factor

    def forward(
        self, hidden_states, encoder_hidden_states=None, attention_mask=None, **cross_attention_kwargs
    ) -> Tensor:
        return self.processor(
            self, hidden_states, encoder_hidden_states, attention_mask=attention_mask, **cross_attention_kwargs
        )
