"""What may import what, as ARCHITECTURE.md says it, and that nothing reads pickles: held by reading the code."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"mha": {"mha"}, "bench": {"mha", "bench"}, "reports": {"reports"}}  # what each may import of the others
AT_MOST = {"mha": (16, 59), "bench": (21, 62), "reports": (10, 30)}  # rooms at the top, and arrows between them
ONLY_WHERE_USED = {
    "datasets",
    "distributed",
    "jiwer",
    "matplotlib",
    "pandas",
    "pyarrow",
    "pytest",
    "sacrebleu",
    "seaborn",
    "sklearn",
    "transformers",
}
PICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
# That users can pickle a pruned model is shown by doing it; nothing is kept.
SHOWN_BY_PICKLING = {
    "tools/model_zoo/prove.py",
    "tests/mha/families/test_without_heads.py",
    "tests/mha/runtime/test_intercept.py",
}
PICKLING = {"torch.load", "torch.save", "pandas.read_pickle", "pd.read_pickle"}


@dataclass(frozen=True)
class Room:
    """A row of ARCHITECTURE.md: a room or a part of one, by its path below the package, and the rooms it may import."""

    path: str
    imports: frozenset[str]


def rooms_of(package: str, text: str) -> list[Room]:
    """The rows of the package's table, in order."""
    (table,) = re.findall(rf"^### {package}\n\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    rows = [line.strip("|\n ").split(" | ") for line in table.splitlines()[2:]]
    return [Room(path.strip("`"), frozenset(re.findall(r"`([^`]+)`", imported))) for path, imported, _ in rows]


ROOMS = {package: rooms_of(package, (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")) for package in PACKAGES}


def room_of(module: str) -> str | None:
    """The row that a module belongs to: the longest path that leads to it; "" is the package itself, None none."""
    package, *below = module.split(".")
    starts = ["/".join(below[:length]) for length in range(len(below), 0, -1)]
    named = {room.path for room in ROOMS[package]}
    return next((start for start in starts if start in named), None if below else "")


def imports(module: str, source: str, *, is_package: bool = False) -> set[str]:
    """Dotted names of all that a module imports, wherever the statement stands; `from a import b` is "a.b"."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            parents = module.split(".")[: len(module.split(".")) - up] if node.level else []
            start = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {f"{start}.{alias.name}" for alias in node.names}
    return names


def imported_rooms(module: str, source: str, *, is_package: bool = False) -> dict[str, str | None]:
    """Each name that a module imports from its own package, outside its own row -> the row that name belongs to."""
    package = module.split(".")[0]
    names = (name for name in imports(module, source, is_package=is_package) if name.split(".")[0] == package)
    rooms = {name: room_of(name) for name in names}
    return {name: room for name, room in rooms.items() if room != room_of(module)}


def wrong_imports(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Imports that ARCHITECTURE.md does not allow, as sentences."""
    package = module.split(".")[0]
    if (own := room_of(module)) is None:
        return [f"{module} is in no row of ARCHITECTURE.md"]
    names = imports(module, source, is_package=is_package)
    wrong = {name for name in names if name.split(".")[0] in PACKAGES.keys() - PACKAGES[package]}
    if own:  # the package itself hands on what its rooms offer
        allowed = next(room.imports for room in ROOMS[package] if room.path == own)
        elsewhere = imported_rooms(module, source, is_package=is_package)
        wrong |= {name for name, room in elsewhere.items() if room not in allowed}
    return [f"{module} imports {name}" for name in sorted(wrong)]


def pickling(source: str) -> list[str]:
    """Whatever in the source reads or writes pickles, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"line {node.lineno}: {name}" for name in names if name.split(".")[0] in PICKLERS]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in PICKLING:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append(f"line {node.value.lineno}: allow_pickle")
    return found


def modules(*packages: str) -> Iterator[tuple[str, Path]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def imports_within(package: str) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    paths = dict(modules(package))

    def home(name: str) -> str:
        return name if name in paths else home(name.rpartition(".")[0])

    return {
        module: {home(name) for name in imports(module, path.read_text(), is_package=path.name == "__init__.py")
                 if name.split(".")[0] == package} - {module}
        for module, path in paths.items()
    }  # fmt: skip


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a loop; none where there is no loop."""
    rest = dict(graph)
    while free := [module for module, imported in rest.items() if not imported & rest.keys()]:
        rest = {module: imported for module, imported in rest.items() if module not in free}
    return sorted(rest)


def test_imports_run_one_way():
    checked, wrong = set(), []
    for module, path in modules(*PACKAGES):
        checked.add(module)
        wrong += wrong_imports(module, path.read_text(), is_package=path.name == "__init__.py")
    assert wrong == []
    assert {"mha", "mha.values.plan", "mha.families", "bench.tasks.digits", "reports.__main__"} <= checked


@pytest.mark.parametrize("package", PACKAGES)
def test_every_row_stands_below_what_it_imports_and_imports_all_that_it_names(package):
    used: dict[str | None, set[str | None]] = {room.path: set() for room in ROOMS[package]}
    for module, path in modules(package):
        if own := room_of(module):
            used[own] |= set(imported_rooms(module, path.read_text(), is_package=path.name == "__init__.py").values())
    above: set[str] = set()
    for room in ROOMS[package]:
        assert room.imports <= above, f"{room.path} imports what stands below it"
        assert used[room.path] == room.imports, f"{room.path}: the table names other rooms than it imports"
        above.add(room.path)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other(package):
    assert circle(imports_within(package)) == []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_and_arrows_stay_few(package):
    def top(module: str) -> str:
        return [*module.split("."), ""][1]

    graph = imports_within(package)
    rooms = {top(module) for module in graph} - {""}
    arrows = {(top(module), top(name)) for module, imported in graph.items() for name in imported}
    between = {(start, end) for start, end in arrows if start and start != end}  # the package itself hands names on
    assert len(rooms) <= AT_MOST[package][0]
    assert len(between) <= AT_MOST[package][1]


def test_nothing_reads_or_writes_pickles():
    paths = {ROOT / "noxfile.py", *(path for _, path in modules(*PACKAGES, "tests", "tools"))}
    paths -= {ROOT / path for path in SHOWN_BY_PICKLING}
    found = {path.relative_to(ROOT).as_posix(): pickling(path.read_text()) for path in paths}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_library_imports_frameworks_only_where_it_uses_them():
    code = """
import importlib, pkgutil, sys
import mha
mha.tasks.Task, mha.visualize  # there without being asked for, as the README names them
for module in pkgutil.walk_packages(mha.__path__, "mha."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*{name.split(".")[0] for name in sys.modules})
"""
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert {"mha", "torch"} <= set(loaded.stdout.split())
    assert set(loaded.stdout.split()) & ONLY_WHERE_USED == set()


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("mha.values.plan", "import torch\nfrom mha.values.errors import PlanError", []),
        ("mha.values.plan", "import mha.values.layout", []),
        ("mha.values.plan", "from mha.pruning.slicing import prune", ["mha.pruning.slicing.prune"]),
        ("mha.values.plan", "def late():\n    from mha.pruning import masking", ["mha.pruning.masking"]),
        ("mha.values.plan", "from ..pruning import masking", ["mha.pruning.masking"]),
        ("mha.values.plan", "import mha", ["mha"]),
        ("mha.values.plan", "from mha import HeadPlan", ["mha.HeadPlan"]),
        ("mha.values.plan", "import reports", ["reports"]),
        ("mha.values.plan", "import mhatmospheric.pruning", []),
        ("mha.families.bert", "from mha.families.base.find import register_family\nfrom .base import linears", []),
        ("mha.families.bert", "from ..pruning import masking", ["mha.pruning.masking"]),
        ("mha.families.reading.source", "from mha.families import find_attention", ["mha.families.find_attention"]),
        ("mha.importance.criteria.gate", "from mha.pruning.slicing import prune", ["mha.pruning.slicing.prune"]),
        ("mha.importance.criteria.gate", "from mha.importance.score import score", ["mha.importance.score.score"]),
        ("mha.planning.choose", "from mha.costs import CostTable\nfrom mha.values.plan import HeadPlan", []),
        ("mha.timing.rounds", "from mha.costs import CostTable", ["mha.costs.CostTable"]),
        ("bench.models.experiment", "import mha\nfrom bench.measure import calls", []),
        ("bench.models.experiment", "from reports.read.load import load", ["reports.read.load.load"]),
        ("reports.site.page", "from reports.analyse import frames\nfrom . import gallery", []),
        ("reports.site.page", "import mha.values.plan\nimport bench", ["bench", "mha.values.plan"]),
    ],
)
def test_the_check_of_imports_finds_what_is_wrong(module, source, expected):
    assert wrong_imports(module, source) == [f"{module} imports {name}" for name in expected]


def test_a_module_that_no_row_names_is_found():
    assert wrong_imports("mha.cellar", "") == ["mha.cellar is in no row of ARCHITECTURE.md"]


def test_relative_imports_of_a_package_start_at_itself():
    assert imports("mha.families", "from .base import find", is_package=True) == {"mha.families.base.find"}
    assert imports("mha.families.bert", "from .base import find") == {"mha.families.base.find"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", ["line 1: pickle"]),
        ("\nfrom joblib import load", ["line 2: joblib"]),
        ("torch.load(path)", ["line 1: torch.load"]),
        ("read = torch.load", ["line 1: torch.load"]),
        ("pd.read_pickle(path)", ["line 1: pd.read_pickle"]),
        ("np.load(path, allow_pickle=True)", ["line 1: allow_pickle"]),
        ("np.load(path, allow_pickle=flag)", ["line 1: allow_pickle"]),
        ("np.load(path, allow_pickle=False)\njson.load(file)\nload_file(path)\n'import pickle'", []),
    ],
)
def test_the_check_of_pickles_finds_them(source, expected):
    assert pickling(source) == expected
