"""Families of attention modules, one file each: a description, as data, of what such a module looks like.

Every module of this package registers what it describes when the package is imported; adding a
family is adding a file.
"""

import importlib
import pkgutil

from mha.families.base.description import AttentionLayer, AttentionMap, Family
from mha.families.base.find import families, find_attention, register_family

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["AttentionLayer", "AttentionMap", "Family", "families", "find_attention", "register_family"]
