"""Packages that only some tasks need, imported where they are used."""

import importlib
from types import ModuleType

from mha.values.errors import TaskError

COMMAND = "pip install 'mha[hf]'"


def needed(package: str, purpose: str) -> ModuleType:
    """The package, or a module of it, imported.

    Args:
        purpose: what it is needed for, as "to read data".

    Raises:
        TaskError: it is not installed; the message says by what it is.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = package.partition(".")[0]
        if error.name != name:
            raise
        raise TaskError(f"the package {name} is needed {purpose}, and not installed: {COMMAND}") from error
