"""One file per kind of task. Each registers itself when this package is imported: adding a kind is adding a file."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
