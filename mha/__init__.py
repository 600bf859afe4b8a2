"""Which attention heads matter, cutting the others out for good, and what that costs and saves."""

from mha.attention import MultiHeadAttention
from mha.errors import EquivalenceError, MhaError, UnsupportedModule
from mha.heads import HeadPlan, HeadScores

__version__ = "0.1.0"

__all__ = ["EquivalenceError", "HeadPlan", "HeadScores", "MhaError", "MultiHeadAttention", "UnsupportedModule"]
