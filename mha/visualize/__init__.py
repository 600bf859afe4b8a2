"""Heads as pictures: attention weights as heatmaps, and a pruned model's weights put back at their original heads."""

from mha.visualize.heatmap import show_attention, show_importance
from mha.visualize.restoring import restore_heads

__all__ = ["restore_heads", "show_attention", "show_importance"]
