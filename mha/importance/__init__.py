"""How much each head matters: `score`, the criteria that it scores with, and what those are given and return."""

from mha.importance.running.calibration import Calibration
from mha.importance.running.scored import Scored

__all__ = ["Calibration", "Scored"]
