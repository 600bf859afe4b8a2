"""Sizes and masks that no layer can have, refused with what was expected and what came."""

import torch
from torch import Tensor

from mha.values.errors import ShapeError


def shared_width(num_hiddens: int, num_heads: int) -> int:
    """The width of a head where heads divide the layer's width among them: `num_hiddens // num_heads`.

    Raises:
        ShapeError: there are no heads, or the width is not a multiple of their number.
    """
    if num_heads < 1 or num_hiddens % num_heads:
        raise ShapeError(
            f"num_hiddens={num_hiddens} is not a multiple of num_heads={num_heads}: "
            "give head_dim, the width of one head"
        )
    return num_hiddens // num_heads


def check_sizes(num_heads: int, num_kv_heads: int, head_dim: int, dropout: float) -> None:
    """Refuse sizes that no layer can have.

    Raises:
        ShapeError: negative numbers of heads, a head width below 1, query heads that key/value heads don't divide, one
            of the two 0 and the other not, or a dropout outside [0, 1).
    """
    if num_heads < 0 or num_kv_heads < 0 or head_dim < 1:
        raise ShapeError(
            f"expected num_heads ≥ 0, num_kv_heads ≥ 0 and head_dim ≥ 1, got {num_heads}, {num_kv_heads} and {head_dim}"
        )
    if (num_heads == 0) != (num_kv_heads == 0) or (num_kv_heads and num_heads % num_kv_heads):
        raise ShapeError(
            f"num_heads={num_heads} is not a multiple of num_kv_heads={num_kv_heads}: "
            "every key/value head serves the same number of query heads"
        )
    if not 0.0 <= dropout < 1.0:
        raise ShapeError(f"dropout: expected a probability in [0, 1), got {dropout}")


def check_mask(attn_mask: Tensor, shape: tuple[int, int, int, int]) -> None:
    """Refuse a mask that a layer can't use.

    Args:
        shape: (b, h, q, k), that of the scores.

    Raises:
        ShapeError: the mask is neither boolean nor floating, or does not broadcast to that shape.
    """
    if not (attn_mask.dtype == torch.bool or attn_mask.is_floating_point()):
        raise ShapeError(f"attn_mask: expected boolean (True = attend) or floating, got {attn_mask.dtype}")
    try:
        fits = torch.broadcast_shapes(attn_mask.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ShapeError(
            f"attn_mask: expected a shape that broadcasts to (batch, head, query, key) = {shape}, "
            f"got {tuple(attn_mask.shape)}"
        )
