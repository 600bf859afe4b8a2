"""Scores of the heads that a model's layers have now, under their original numbers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mha.families import AttentionLayer
from mha.values.plan import HeadScores


def head_scores(layers: Mapping[str, AttentionLayer], rows: Mapping[str, Tensor], **extras: Any) -> HeadScores:
    """A `HeadScores` of these layers, with the original numbers of their heads, and how many groups they have.

    Args:
        rows: layer name -> (h,), one score for each head that the layer has now, by position.
        extras: further arguments of `HeadScores`, such as `examples` or `errors`.
    """
    return HeadScores(
        rows,
        groups={name: layer.num_kv_heads for name, layer in layers.items()},
        heads={name: layer.heads for name, layer in layers.items()},
        **extras,
    )
