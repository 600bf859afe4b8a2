"""Python files of a user's own, imported by their path."""

import importlib.util
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType


def imported(path: Path, prefix: str) -> ModuleType:
    """The file as a module, imported once in a process; two files of the same name become two modules.

    Args:
        prefix: what the module's name begins with.

    Raises:
        Exception: whatever the file's own code raises.
    """
    name = f"{prefix}_{path.stem}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up there
    try:
        spec.loader.exec_module(module)
    except Exception:
        del sys.modules[name]
        raise
    return module
