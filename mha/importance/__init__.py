"""How much each head matters: `score`, the criteria that it scores with, and what those are given and return."""

import mha.importance.criteria  # each registers itself, whichever part of this room is asked for first  # noqa: F401
from mha.importance.running.calibration import Calibration, Sums
from mha.importance.running.scored import Scored
from mha.importance.running.shard import Shard

__all__ = ["Calibration", "Scored", "Shard", "Sums"]
