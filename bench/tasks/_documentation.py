"""Docstrings of the standard library and of the packages that this project needs: text that is there anyway.

Sources are parsed, and never imported. What is evaluated shares no file with what is calibrated on, and next to no
text: `apart` drops what repeats.
"""

import ast
import importlib.util
import inspect
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

from mha.tasks.files.near_copies import shingles as in_a_row

Item = TypeVar("Item")

STANDARD_LIBRARY = "python"
LEFT_OUT = {
    "test",
    "tests",
    "site-packages",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "_vendor",
    "externals",
}
SHINGLE = 5  # words
REPEATED = 0.2  # the share of a text's shingles by which it counts as a repetition


class Docstring(NamedTuple):
    """A docstring, as `inspect.cleandoc` leaves it, and the source file that has it, as numpy/linalg/_linalg.py."""

    file: str
    text: str


def docstrings(packages: Iterable[str]) -> list[Docstring]:
    """The docstrings of these packages, in the order of their files and lines; STANDARD_LIBRARY names that of Python.

    Raises:
        ModuleNotFoundError: a package is not installed.
    """
    return [docstring for package in packages for docstring in _of_package(package)]


def parts(items: Iterable[Item], file: Callable[[Item], str], shares: Mapping[str, float]) -> dict[str, list[Item]]:
    """Divide items by the files that they come from: name of a part -> its items, shuffled, the same every time.

    Args:
        file: the file of an item; all items of a file are in one part.
        shares: name of a part -> about which share of the files it gets; together 1.
    """
    divided: dict[str, list[Item]] = {name: [] for name in shares}
    for item in items:
        divided[_part(file(item), shares)].append(item)
    return {name: sorted(part, key=lambda item: _number(repr(item))) for name, part in divided.items()}


def apart(texts: Sequence[str], seen: set[int], repeated: float = REPEATED) -> list[int]:
    """The numbers of those texts of which little stands in an earlier one; `seen` is what is known, and grows.

    A text is left out if more than the share `repeated` of its shingles (5 words in a row, of letters alone) occur in
    texts that were kept before. Texts of fewer than 5 words are left out as well.

    Args:
        seen: hashes of the shingles of all texts that were kept before; those of the kept ones are added.
    """
    kept = []
    for number, text in enumerate(texts):
        own = shingles(text)
        if own and len(own & seen) <= repeated * len(own):
            kept.append(number)
            seen |= own
    return kept


def shingles(text: str) -> set[int]:
    """The hashes of every 5 words in a row of a text: words are runs of letters, in lower case."""
    words = "".join(letter if letter.isalpha() else " " for letter in text.lower()).split()
    return in_a_row(words, SHINGLE)


@cache
def _of_package(package: str) -> tuple[Docstring, ...]:
    """The docstrings of one package or of the standard library; read once in a process."""
    return tuple(_read(package, _folder(package)))


def _read(package: str, folder: Path) -> Iterator[Docstring]:
    """Yield every docstring of the Python files below a folder, but for tests and what is left out."""
    for path in sorted(folder.rglob("*.py")):
        below = path.relative_to(folder)
        if LEFT_OUT & set(below.parts):
            continue
        for text in _docstrings_of(path):
            yield Docstring(f"{package}/{below.as_posix()}", text)


def _docstrings_of(path: Path) -> Iterator[str]:
    """Yield the docstrings of one file, cleaned, in the order of its lines; none if it can't be parsed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in _statements(tree):
        text = ast.get_docstring(node, clean=False)
        if text is not None:
            yield inspect.cleandoc(text)


def _statements(node: ast.AST) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the node and all below it that may have a docstring; of functions, without what is defined within them."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            yield from _statements(child)


def _folder(package: str) -> Path:
    """The folder that a package's sources are in.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package!r} to read docstrings of: pip install {package}", name=package)
    return Path(next(iter(spec.submodule_search_locations)))


def _part(file: str, shares: Mapping[str, float]) -> str:
    """The part that a file belongs to, by a hash of its name."""
    place, end = _number(file) / 2**64, 0.0
    for name, share in shares.items():
        end += share
        if place < end:
            return name
    return name


def _number(text: str) -> int:
    """A hash of a text, from 0 to 2^64 - 1; the same in every process."""
    return int.from_bytes(sha256(text.encode()).digest()[:8])
