"""The criteria by name: `register_criterion` adds one, `criteria` lists them, `describe` finds one."""

from mha.importance.registry.criterion import Criterion
from mha.importance.registry.registered import criteria, describe, register_criterion

__all__ = ["Criterion", "criteria", "describe", "register_criterion"]
