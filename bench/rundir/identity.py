"""What a task consists of, part by part, so that a run never goes on with another one."""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from enum import Enum
from hashlib import sha256
from importlib import metadata
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from bench.measure.contents import PLAIN, UncomparableError, digest, is_local, without_cached

SHOWN = 16  # digits of a part's hash


def identity(task: Any, file: Path | None = None) -> dict[str, Any]:
    """What `environment.json` keeps of a task, by which it is known again.

    The parts are the files it is defined in, and those of the user's own that these import; the object's attributes and
    its class; the constants of those files; and the versions of the packages they import.

    Args:
        file: the file that `--task` names, if it names one.

    Returns:
        `parts`: name -> hash; `source`: a hash of all of them, None where something can't be compared; `uncomparable`:
        what can't be compared, in sentences.
    """
    files = local_files([*([file] if file else []), *_files_of(task)])
    parts = {f"file {name}": sha256(path.read_bytes()).hexdigest()[:SHOWN] for name, path in files.items()}
    parts |= {f"package {name}": version for name, version in _packages(files.values())}
    uncomparable = []
    for name, value in {**_own(task), **dict(_constants(files, task))}.items():
        try:
            parts[name] = digest(value, name)[:SHOWN]
        except UncomparableError as error:
            uncomparable.append(str(error))
    everything = "\n".join(f"{name}: {part}" for name, part in sorted(parts.items()))
    source = None if uncomparable else sha256(everything.encode()).hexdigest()
    return {"source": source, "parts": parts, "uncomparable": uncomparable}


def local_files(start: Iterable[Path]) -> dict[str, Path]:
    """These files and all of the user's own that they import, directly or not: file or module name -> path."""
    files = {path.resolve(): path.name for path in start}
    waiting = list(files)
    while waiting:
        for name, other in _imports(waiting.pop()):
            if other not in files and is_local(other):
                files[other] = name
                waiting.append(other)
    names = list(files.values())
    return {name if names.count(name) == 1 else str(path): path for path, name in files.items()}


def _own(task: Any) -> dict[str, Any]:
    """The task's class and attributes, by name; of the attributes, those that `copy` would take (`__getstate__`)."""
    if isinstance(task, ModuleType):
        return {}
    state = task.__getstate__()
    states = state if isinstance(state, tuple) and len(state) == 2 else (state,)  # with slots there are two
    attributes: dict[str, Any] = {}
    for each in states:
        attributes |= without_cached(task, each) if isinstance(each, dict) else {} if each is None else {"state": each}
    return {"class": type(task), **{f"attribute {name}": value for name, value in attributes.items()}}


def _files_of(task: Any) -> list[Path]:
    """The files that define the task's class, and those of the user's own classes that it inherits from."""
    names = [task.__name__] if isinstance(task, ModuleType) else [each.__module__ for each in type(task).__mro__]
    first, *others = (getattr(sys.modules.get(name), "__file__", None) for name in names)
    return [Path(file) for file in dict.fromkeys([first, *filter(is_local, others)]) if file]


def _constants(files: Mapping[str, Path], task: Any) -> Iterator[tuple[str, Any]]:
    """Yield label and value of each global of these files (label -> path), as imported, that is plain data."""
    known = [(getattr(module, "__file__", None), module) for module in list(sys.modules.values())]
    modules = {Path(file).resolve(): module for file, module in known if file and is_local(file)}
    for label, path in files.items():
        for name, value in vars(modules[path]).items() if path in modules else ():
            if not name.startswith("__") and value is not task and is_data(value):
                yield f"{name} in {label}", value


def is_data(value: Any) -> bool:
    """Whether a value is a number, a text, an array or the like, or a container of nothing but such."""
    if isinstance(value, (*PLAIN, np.ndarray, np.generic, Tensor, PurePath, Enum)):
        return True
    if isinstance(value, dict):
        return all(map(is_data, value)) and all(map(is_data, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_data, value))
    return is_dataclass(value) and not isinstance(value, type) and is_data(vars(value))


def _imports(file: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and file of each module that a file imports, anywhere in it, and of the packages around the module."""
    for level, names in _imported_names(file):
        folders = [file.parents[level - 1]] if level else [file.parent, *map(Path, sys.path)]
        for words in (name.split(".") for name in names):
            for count in range(1, len(words) + 1):
                loaded = None if level else getattr(sys.modules.get(".".join(words[:count])), "__file__", None)
                if path := Path(loaded) if loaded else _looked_up(words[:count], folders):
                    yield ".".join(words[:count]), path.resolve()


def _imported_names(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield for each import in a file how many folders up it starts (0 if absolute), and names that may be modules."""
    for node in ast.walk(ast.parse(file.read_bytes(), file)):
        if isinstance(node, ast.Import):
            yield 0, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            yield node.level, [".".join(filter(None, [node.module, alias.name])) for alias in node.names]


def _looked_up(words: Iterable[str], folders: Iterable[Path]) -> Path | None:
    """The file of a module, whose dotted name is given in parts, in the first folder that has it; else None."""
    bases = [folder.joinpath(*words) for folder in folders]
    candidates = (path for base in bases for path in (Path(f"{base}.py"), base / "__init__.py"))
    return next((path for path in candidates if path.is_file()), None)


def _packages(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield name and version, if known, of each package outside the standard library that the files import."""
    imports = (imported for file in files for imported in _imported_names(file))
    names = {name.partition(".")[0] for level, many in imports if not level for name in many}
    for name in sorted(names - sys.stdlib_module_names):
        if version := _version(name):
            yield name, version


def _version(name: str) -> str | None:
    """The version of an installed package, or the `__version__` of the imported module of this name; else None."""
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):  # the package's name may be another than the module's
        return getattr(sys.modules.get(name), "__version__", None)
