"""A device-aware timer, functions timed in turns, and quantiles with their intervals."""

from mha.timing.cache_flush import cache_bytes, emptying
from mha.timing.quantiles import Quantile, Spread, median, quantile
from mha.timing.rounds import ENOUGH, WARM_UP, Rounds, Sample, TimedCall, rotated, synchronize, time_call

__all__ = [
    "ENOUGH",
    "WARM_UP",
    "Quantile",
    "Rounds",
    "Sample",
    "Spread",
    "TimedCall",
    "cache_bytes",
    "emptying",
    "median",
    "quantile",
    "rotated",
    "synchronize",
    "time_call",
]
