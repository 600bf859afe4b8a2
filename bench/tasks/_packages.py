"""Models that come as pip packages: where their files are, or what to install."""

import importlib.util
from pathlib import Path


class MissingPackageError(ModuleNotFoundError):
    """A package that a task needs is not installed; the message says which, and by which command it is."""


def why_missing(task: str, packages: dict[str, str], command: str) -> str | None:
    """Why a task can't be had here, in a sentence; None if all that it needs is there.

    Args:
        task: its name.
        packages: module -> the pip package that has it.
        command: what installs them.
    """
    missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    return f"task {task} needs {', '.join(missing)}: {command}" if missing else None


def folder_of(module: str) -> Path:
    """The folder that an installed package is in, found without importing it.

    Raises:
        MissingPackageError: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(f"no package {module} is installed", name=module)
    return Path(next(iter(spec.submodule_search_locations)))
