"""Hashes of values by their contents: in every process the same for equal values, and others for others."""

import copyreg
import sys
import sysconfig
import threading
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, cached_property, lru_cache
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mha

INSTALLED = {"site-packages", "dist-packages"}  # folders, on the path of whatever was installed
OURS = Path(mha.__file__).parent, Path(__file__).parents[1]  # of these the run directory keeps a hash of its own
STANDARD = Path(sysconfig.get_path("stdlib"))
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.device, torch.Size)
NO_CONTENTS = (type(threading.Lock()), type(threading.RLock()))  # that which a lock guards has them
BOUND = (types.MethodType, types.BuiltinMethodType, types.MethodWrapperType)
DESCRIPTORS = (types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType)
CODE = (type, types.CodeType, types.FunctionType, *BOUND, *DESCRIPTORS, types.GetSetDescriptorType)
WRAPPERS = (staticmethod, classmethod, property, cached_property, type(lru_cache(repr)))
WRAPPED = ("__func__", "fget", "fset", "fdel", "func", "__wrapped__")  # under which names they have what they wrap
BY_DEFINITION = {"__dict__", "__weakref__", "__module__", "__doc__", "__slots__", "__annotations__", "_abc_impl"}


class UncomparableError(Exception):
    """A value has contents that two processes can't compare; the message says where in the whole they stand."""


def digest(value: Any, where: str = "") -> str:
    """The SHA-256 of a value's contents as hex text, the same in every process.

    It goes recursively through containers and objects. Arrays and tensors count by their numbers, functions and classes
    by their code; those of Python, of an installed package or of this project only by their names.

    Args:
        where: what an error calls the value.

    Raises:
        UncomparableError: there is something in it whose contents can't be read, as an open file.
    """
    with warnings.catch_warnings(action="ignore"):  # how a deprecated object can be copied is no news
        return _Reader().read(value, where).hex()


@cache  # every module that is imported is asked about, often more than once
def is_local(file: str | Path | None) -> bool:
    """Whether a Python file is the user's own, rather than of Python, an installed package or this project."""
    if file is None or not str(file).endswith(".py"):
        return False
    path = Path(file).resolve()
    return not (INSTALLED & {*path.parts} or any(path.is_relative_to(folder) for folder in (*OURS, STANDARD)))


@dataclass
class _Reader:
    """Hashes a value with all its parts, each object once, however often it is referred to."""

    known: dict[int, bytes] = field(default_factory=dict)
    within: list[int] = field(default_factory=list)  # what is being read: a value may contain itself
    alive: list[Any] = field(default_factory=list)  # or another value might get an id that is known

    def read(self, value: Any, where: str) -> bytes:
        """The hash (32 bytes) of a value, which errors call `where`; UncomparableError if it can't be read."""
        if isinstance(value, PLAIN):
            return _hash(type(value).__name__, repr(value))
        if id(value) in self.within:
            return _hash("itself", str(len(self.within) - self.within.index(id(value))))
        if id(value) not in self.known:
            self.within.append(id(value))
            self.alive.append(value)
            try:
                self.known[id(value)] = _hash(*self._parts(value, where))
            except RecursionError:
                raise UncomparableError(f"{where}: it is nested too deeply") from None
            finally:
                self.within.pop()
        return self.known[id(value)]

    def _parts(self, value: Any, where: str) -> Iterator[str | bytes]:
        """Yield what a value's hash is made of: its type's name, then its contents, in an order that never changes."""
        yield _kind(value)
        if isinstance(value, Tensor):
            yield from _of_tensor(value, where)
        elif isinstance(value, np.ndarray | np.generic):
            yield from self._of_array(np.asarray(value), where)
        elif isinstance(value, Enum):
            yield value.name
        elif isinstance(value, PurePath):
            yield str(value)
        elif type(value) in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
            yield from self._each(value, where)
        elif type(value) in (set, frozenset):
            yield from sorted(self._each(value, where))
        elif type(value) in (dict, OrderedDict, types.MappingProxyType):
            yield from self._of_mapping(value, where)
        elif isinstance(value, torch.Generator):
            yield from _of_tensor(value.get_state(), where)
        elif isinstance(value, WRAPPERS):
            yield from self._each([getattr(value, name, None) for name in WRAPPED], where)
        elif isinstance(value, CODE):
            yield from self._of_code(value, where)
        elif not isinstance(value, (*NO_CONTENTS, types.ModuleType)):
            yield from self._of_object(value, where)

    def _each(self, values: Iterable[Any], where: str) -> Iterator[bytes]:
        return (self.read(value, f"{where}[{index}]") for index, value in enumerate(values))

    def _of_mapping(self, values: Mapping[Any, Any], where: str) -> Iterator[bytes]:
        yield from sorted(self.read(key, where) + self.read(each, _at(where, key)) for key, each in values.items())

    def _of_array(self, array: np.ndarray, where: str) -> Iterator[str | bytes]:
        yield f"{array.dtype.str if array.dtype.names is None else array.dtype.descr} {array.shape}"
        yield from self._each(array.ravel(), where) if array.dtype.hasobject else [array.tobytes()]

    def _of_code(self, value: Any, where: str) -> Iterator[str | bytes]:
        """Yield what the hash of a user's function (code, defaults, closure) or class (attributes) is made of."""
        if isinstance(value, types.CodeType):
            yield self.read((value.co_consts, value.co_names, value.co_varnames, value.co_freevars), where)
            yield value.co_code
        elif isinstance(value, BOUND):
            yield self.read(getattr(value, "__func__", None), where) + self.read(value.__self__, where)
        elif isinstance(value, type):
            yield from self._of_class(value, where)
        elif isinstance(value, types.FunctionType) and is_local(_file(value)):
            cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
            yield self.read((value.__code__, value.__defaults__, value.__kwdefaults__, cells), where)

    def _of_class(self, value: type, where: str) -> Iterator[bytes]:
        for cls in value.__mro__:
            if is_local(_file(cls)):
                own = {name: each for name, each in vars(cls).items() if _is_own(name, each)}
                yield self.read(own, where)

    def _of_object(self, value: Any, where: str) -> Iterator[bytes]:
        """Hashes of what `copy` would make the object again from, so that its `__getstate__` can leave things out."""
        try:
            reduced = copyreg.dispatch_table.get(type(value))  # as that of a regular expression
            recipe = reduced(value) if reduced else value.__reduce_ex__(4)
        except Exception as error:
            raise UncomparableError(f"{where}: a {type(value).__qualname__}, whose contents can't be read") from error
        if isinstance(recipe, str):
            return
        made_by, arguments, state, items, pairs = (*recipe, None, None, None)[:5]
        yield self.read(made_by, where)
        yield self.read(arguments, where)
        for part in state if isinstance(state, tuple) else (state,):
            yield self.read(without_cached(value, part), where)
        yield from self._each(items or (), where)
        yield from self._of_mapping(dict(pairs or ()), where)


def _hash(*parts: str | bytes) -> bytes:
    """The SHA-256 of parts, each with its length before it: ("ab", "c") and ("a", "bc") differ."""
    hashed = sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.digest()


def _at(where: str, key: Any) -> str:
    """What errors call the value under this key of a mapping: `where.key`, or `where` if the key is no text."""
    return f"{where}.{key}" if isinstance(key, str) else where


def _kind(value: Any) -> str:
    """The name of a value's type; of functions, classes and modules also their name and, unless local, module."""
    if not isinstance(value, (*CODE, types.ModuleType)):
        return type(value).__qualname__
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    module = "" if is_local(_file(value)) else getattr(value, "__module__", "")
    return f"{type(value).__qualname__} {module} {name}"


def _is_filled(cell: types.CellType) -> bool:
    """Whether a cell of a closure has been given a value yet."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _file(value: Any) -> str | None:
    """The path of the file that a function's or class's module was imported from, as text; None where there is none."""
    return getattr(sys.modules.get(getattr(value, "__module__", None) or ""), "__file__", None)


def _is_own(name: str, value: Any) -> bool:
    """Whether an attribute of a class was written by its author, rather than added by Python."""
    made = name.startswith("__") and not isinstance(value, types.FunctionType)
    return name not in BY_DEFINITION and not made and not isinstance(value, types.MemberDescriptorType)


def without_cached(value: Any, state: Any) -> Any:
    """The state of an object without the values that a `cached_property` keeps, since they follow from the rest."""
    if not isinstance(state, dict):
        return state
    attributes = ((name, getattr(type(value), str(name), None)) for name in state)
    cached = {name for name, each in attributes if isinstance(each, cached_property)}
    return {name: each for name, each in state.items() if name not in cached}


def _of_tensor(tensor: Tensor, where: str) -> Iterator[str | bytes]:
    yield f"{tensor.dtype} {tuple(tensor.shape)} {tensor.layout}"
    if tensor.device.type == "meta":
        return
    try:
        with torch.no_grad():
            plain = tensor.detach().cpu()
            yield plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UncomparableError(f"{where}: a tensor of layout {tensor.layout}, whose numbers can't be read") from error
