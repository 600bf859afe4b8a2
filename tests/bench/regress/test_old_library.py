"""The gate's processes run the head's benchmarks with the base's `mha`: what they load must do with an old one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.regress.workers import PLUGIN

ROOT = Path(__file__).parents[3]
PUBLIC = ("mha.costs", "mha.tasks", "mha.timing")  # beside the names in mha itself


def imported(source: str) -> Iterator[str]:
    """Every name that a module imports: `from a.b import c` is "a.b.c"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(name: str) -> Path | None:
    """The file of a module of bench by its name, or by that of something in it."""
    while name:
        if (path := ROOT / (name.replace(".", "/") + ".py")).exists():
            return path
        name = name.rpartition(".")[0]
    return None


def is_public(name: str) -> bool:
    """Whether an older mha has this, too."""
    return name == "mha" or name in PUBLIC or name.rpartition(".")[0] in ("mha", *PUBLIC)


@pytest.fixture(scope="module")
def loaded() -> dict[Path, set[str]]:
    """Each file of bench that the processes load, with what it imports."""
    waiting = [*(ROOT / "bench/regress").glob("bench_*.py"), file_of(PLUGIN), file_of("bench.regress.injecting")]
    files: dict[Path, set[str]] = {}
    while waiting:
        path = waiting.pop()
        if path not in files:
            files[path] = set(imported(path.read_text(encoding="utf-8")))
            waiting += filter(None, (file_of(name) for name in files[path] if name.startswith("bench.")))
    return files


def test_they_load_only_what_is_public_of_the_library(loaded):
    private = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path, names in loaded.items()
        for name in names
        if name.split(".")[0] == "mha" and not is_public(name)
    }
    assert private == set()


def test_all_that_they_load_is_looked_at(loaded):
    names = {path.relative_to(ROOT / "bench").as_posix() for path in loaded}
    assert {"regress/bench_gate.py", "regress/interleaving.py", "regress/seeded.py", "measure/sampling.py"} <= names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mha", True),
        ("mha.prune", True),
        ("mha.timing", True),
        ("mha.timing.Rounds", True),
        ("mha.timing.rounds.Rounds", False),
        ("mha.values.atomic_files.appears_whole", False),
    ],
)
def test_what_counts_as_public(name, expected):
    assert is_public(name) is expected
