"""Other implementations of self-attention, over the weights and the kept heads of one of our layers.

Each is made from our whole layer and the heads to keep, and called with the same `Inputs`; those that can't be had with
fewer heads raise `NoPeerError`. Whether their outputs agree is checked before they are timed, not here.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mha


class NoPeerError(Exception):
    """An implementation is not installed, or can't have fewer heads than the whole layer; the message says which."""


class Inputs(NamedTuple):
    """What a layer is called with: x (b, s, e); the lengths (b,) of a padded batch; and whether the mask is causal."""

    x: Tensor
    lengths: Tensor | None = None
    causal: bool = False

    def real(self) -> Tensor:
        """The mask (b, s) of tokens that are no padding, True = no padding."""
        if self.lengths is None:
            return torch.ones(self.x.shape[:2], dtype=torch.bool, device=self.x.device)
        return torch.arange(self.x.shape[1], device=self.x.device) < self.lengths[:, None]

    def seen(self) -> Tensor | None:
        """The mask (b, 1, 1, s) of keys that are no padding, True = attend; None where there are no lengths."""
        return None if self.lengths is None else self.real()[:, None, None, :]


Attend = Callable[[Inputs], Tensor]  # x of the inputs -> (b, s, e)


class Linears(nn.Module):
    """Self-attention made of four `nn.Linear` around the method `attend`, without checks of its inputs.

    Args:
        layer: the `MultiHeadAttention` whose weights are copied, and whose heads it has.
    """

    def __init__(self, layer: mha.MultiHeadAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = layer.num_heads, layer.head_dim
        self.W_q, self.W_k, self.W_v, self.W_o = (copy.deepcopy(linear) for linear in layer.children())

    def forward(self, inputs: Inputs) -> Tensor:
        """Self-attention over x of the inputs, (b, s, e) -> (b, s, e): project, `attend`, project back."""
        q, k, v = (self.split(project(inputs.x)) for project in (self.W_q, self.W_k, self.W_v))
        return self.W_o(self.attend(q, k, v, inputs).transpose(1, 2).flatten(2))

    def split(self, projected: Tensor) -> Tensor:
        """Split projected tokens into heads of width d: (b, s, h·d) -> (b, h, s, d)."""
        return projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, inputs: Inputs) -> Tensor:
        """The context (b, h, s, d) of q, k, v of that shape, by torch's fused attention, masked as the inputs say."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=inputs.seen(), is_causal=inputs.causal)


class Textbook(Linears):
    """Attention with an explicit softmax, as in Dive into Deep Learning (section 11.5)."""

    head_mask: Tensor | None = None  # (h, 1, 1), multiplied onto the weights

    def attend(self, q: Tensor, k: Tensor, v: Tensor, inputs: Inputs) -> Tensor:
        """The context (b, h, s, d) of q, k and v of that shape, by products and a softmax, masked as the inputs say."""
        scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
        if inputs.causal:
            ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(ahead, float("-inf"))
        if (seen := inputs.seen()) is not None:
            scores = scores.masked_fill(~seen, float("-inf"))
        weights = scores.softmax(-1)
        return (weights if self.head_mask is None else weights * self.head_mask) @ v


class Ours(nn.Module):
    """Our layer as a module that takes `Inputs`; of a padded batch it computes only what is no padding."""

    def __init__(self, layer: mha.MultiHeadAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Inputs) -> Tensor:
        """Self-attention over the inputs' x: (b, s, e) -> (b, s, e)."""
        x, lengths = inputs.x, inputs.lengths
        output: Tensor = self.layer(x, x, x, lengths, is_causal=inputs.causal, query_lens=lengths)
        return output


def ours(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:
    """Our layer, sliced to the heads of `kept`."""
    return Ours(_sliced(layer, kept))


def linears(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:
    """Four `nn.Linear` around torch's fused attention, over the heads of `kept`: what anybody would write first."""
    return Linears(_sliced(layer, kept))


def textbook(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:
    """Attention with an explicit softmax (`Textbook`), over the heads of `kept`."""
    return Textbook(_sliced(layer, kept))


def masked(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:
    """Attention with all heads, those not kept multiplied by 0, as transformers 4's `head_mask`: it saves no time."""
    module = Textbook(layer)
    gates = torch.zeros(layer.num_heads, 1, 1)
    gates[list(kept)] = 1.0
    module.head_mask = gates.to(layer.W_o.weight)
    return module


def products(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:
    """The bare matrix products and attention kernel of the kept heads: no module around them can be faster."""
    layer = _sliced(layer, kept)
    heads, width = layer.num_heads, layer.head_dim
    projections = layer.W_q, layer.W_k, layer.W_v, layer.W_o
    (w_q, b_q), (w_k, b_k), (w_v, b_v), (w_o, b_o) = ((linear.weight, linear.bias) for linear in projections)
    linear, attend = F.linear, F.scaled_dot_product_attention

    def call(inputs: Inputs) -> Tensor:
        x = inputs.x
        b, s, _ = x.shape
        q = linear(x, w_q, b_q).view(b, s, heads, width).transpose(1, 2)
        k = linear(x, w_k, b_k).view(b, s, heads, width).transpose(1, 2)
        v = linear(x, w_v, b_v).view(b, s, heads, width).transpose(1, 2)
        context = attend(q, k, v, attn_mask=inputs.seen(), is_causal=inputs.causal)
        return linear(context.transpose(1, 2).reshape(b, s, heads * width), w_o, b_o)

    return call


def torchs(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:
    """`torch.nn.MultiheadAttention` with our layer's weights, called without returning attention weights.

    Raises:
        NoPeerError: `kept` leaves heads out.
    """
    _whole("nn.MultiheadAttention", layer, kept)
    width = layer.W_o.out_features
    like = layer.W_o.weight
    module = nn.MultiheadAttention(width, layer.num_heads, batch_first=True, device=like.device, dtype=like.dtype)
    projections = (layer.W_q, layer.W_k, layer.W_v)
    module.load_state_dict(
        {
            "in_proj_weight": torch.cat([projection.weight for projection in projections]),
            "in_proj_bias": torch.cat([projection.bias for projection in projections]),
            "out_proj.weight": layer.W_o.weight,
            "out_proj.bias": layer.W_o.bias,
        }
    )
    module.eval()

    def call(inputs: Inputs) -> Tensor:
        x, padding = inputs.x, None if inputs.lengths is None else ~inputs.real()
        causal = (
            nn.Transformer.generate_square_subsequent_mask(x.shape[1], x.device, x.dtype) if inputs.causal else None
        )
        output: Tensor = module(
            x, x, x, key_padding_mask=padding, need_weights=False, attn_mask=causal, is_causal=inputs.causal
        )[0]
        return output

    return call


def transformers(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:
    """CLIP's attention of transformers 5 with our layer's weights, over torch's fused attention.

    Raises:
        NoPeerError: `kept` leaves heads out, or transformers is not installed.
    """
    _whole("CLIPAttention", layer, kept)
    try:
        from transformers import CLIPTextConfig
        from transformers.models.clip.modeling_clip import CLIPAttention
    except ImportError as error:
        raise NoPeerError(f"transformers is not installed ({error}): pip install -e '.[peers]'") from None
    sizes = {"hidden_size": layer.W_o.out_features, "num_attention_heads": layer.num_heads}
    options: dict[str, Any] = {**sizes, "attn_implementation": "sdpa"}
    module = CLIPAttention(CLIPTextConfig(**options)).to(layer.W_o.weight).eval()
    names = {"q_proj": layer.W_q, "k_proj": layer.W_k, "v_proj": layer.W_v, "out_proj": layer.W_o}
    for name, linear in names.items():
        module.get_submodule(name).load_state_dict(linear.state_dict())

    def call(inputs: Inputs) -> Tensor:
        output: Tensor = module(inputs.x, attention_mask=inputs.seen(), is_causal=inputs.causal)[0]
        return output

    return call


class Nested(Linears):
    """The four linears around torch's fused attention over nested tensors: nothing is computed for padding."""

    def forward(self, inputs: Inputs) -> Tensor:
        """Self-attention over x of the inputs, (b, s, e) -> (b, s, e), zero in the padding."""
        x, lengths = inputs.x, inputs.lengths
        assert lengths is not None, "nested tensors are for padded batches"
        real = inputs.real()
        starts = F.pad(lengths.cumsum(0), (1, 0))
        packed = x[real]
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(self.split(project(packed)), starts).transpose(1, 2)
            for project in (self.W_q, self.W_k, self.W_v)
        )
        context = F.scaled_dot_product_attention(q, k, v, is_causal=inputs.causal).transpose(1, 2)
        output = torch.zeros_like(x)
        output[real] = self.W_o(context.values().flatten(1))
        return output

    def split(self, projected: Tensor) -> Tensor:
        """Split packed tokens into heads of width d: (tokens, h·d) -> (tokens, h, d)."""
        return projected.unflatten(-1, (self.num_heads, self.head_dim))


def nested(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:
    """Attention over nested tensors (`Nested`), over the heads of `kept`, for padded batches.

    Raises:
        NoPeerError: the layer is on the CPU, where torch attends to one sequence of a nested tensor after another.
    """
    if layer.W_o.weight.device.type == "cpu":
        raise NoPeerError("nested tensors have a fused kernel on a GPU only")
    return Nested(_sliced(layer, kept))


def torch_pruning(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> Attend:
    """The same four `nn.Linear` as `linears`, from which Torch-Pruning, told where heads lie, cuts those not in `kept`.

    Raises:
        NoPeerError: torch-pruning is not installed.
    """
    try:
        import torch_pruning as tp
    except ImportError as error:
        raise NoPeerError(f"torch-pruning is not installed ({error}): pip install -e '.[peers]'") from None
    module = Linears(layer)
    gone = [head for head in range(layer.num_heads) if head not in kept]
    columns = [head * layer.head_dim + column for head in gone for column in range(layer.head_dim)]
    for linear in (module.W_q, module.W_k, module.W_v):
        tp.prune_linear_out_channels(linear, columns)
    tp.prune_linear_in_channels(module.W_o, columns)
    module.num_heads = len(kept)
    return module


def _sliced(layer: mha.MultiHeadAttention, kept: Sequence[int]) -> mha.MultiHeadAttention:
    """A copy of our layer with the heads of `kept` only."""
    return cast(mha.MultiHeadAttention, mha.prune(layer, mha.HeadPlan({"": kept})))


def _whole(name: str, layer: mha.MultiHeadAttention, kept: Sequence[int]) -> None:
    """Raise a `NoPeerError`, in which `name` is what can't be had with fewer heads, if `kept` leaves heads out."""
    if len(kept) < layer.num_heads:
        raise NoPeerError(f"{name} ties the width of a head to the number of heads, so it has none with fewer of them")


PEERS: dict[str, Callable[[mha.MultiHeadAttention, Sequence[int]], Attend]] = {
    "linears": linears,
    "torch": torchs,
    "textbook": textbook,
    "transformers": transformers,
    "nested": nested,
    "torch_pruning": torch_pruning,
    "masked": masked,
}
