"""Packages that only some uses need: imported where they are used, with an error that says how to install them."""

import importlib
from types import ModuleType

from mha.values.errors import MissingPackageError


def needed(package: str, extra: str, purpose: str) -> ModuleType:
    """The package, or a module of it, imported.

    Args:
        extra: the extra of this project that brings the package.
        purpose: what it is needed for, as "to draw heads".

    Raises:
        MissingPackageError: it is not installed; the message says what installs it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = package.partition(".")[0]
        if error.name != name:
            raise
        raise MissingPackageError(
            f"the package {name} is needed {purpose}, and is not installed: pip install 'mha[{extra}]'", name=name
        ) from error
