"""How much each head matters: one criterion per file, behind one registry.

Every module of this package registers what it defines when the package is imported; adding a
criterion is adding a file.
"""

import importlib
import pkgutil

from mha.importance.registry import Criterion, criteria, criterion, describe, score

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Criterion", "criteria", "criterion", "describe", "score"]
