"""What may import what, and that nothing reads pickles: held by reading the code, not by running it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"mha": {"mha"}, "bench": {"mha", "bench"}, "reports": {"reports"}}  # what each may import of the others
LAYERS = (  # a module of mha imports from the lines above its own only; one not named here stands on top of all
    {"caches", "errors", "files", "output_bias", "progress", "quantiles", "shortened", "undoing"},
    {"documents", "inference", "locking", "recomputation", "rows"},
    {"scores_file"},
    {"scores"},
    {"heads", "knapsack", "layout", "normal_equations", "packing", "timing"},
    {"attention", "optimizer_state", "rearrangement"},
    {"families"},
    {"configurations", "masking"},
    {"importance", "pruning"},
    {"equivalence"},
    {"streams"},
    {"compensation", "costs"},
    {"feasible"},
    {"planning"},
)
ONLY_WHERE_USED = {"matplotlib", "pandas", "pyarrow", "pytest", "seaborn", "sklearn", "transformers"}
PICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
# That users can pickle a pruned model is shown by doing it; nothing is kept.
SHOWN_BY_PICKLING = {"tools/model_zoo/prove.py", "tests/mha/families/test_without_heads.py"}
PICKLING = {"torch.load", "torch.save", "pandas.read_pickle", "pd.read_pickle"}


def imports(module: str, source: str, *, is_package: bool = False) -> set[str]:
    """Dotted names of all that a module imports, wherever the statement stands; `from a import b` is "a.b"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            parents = module.split(".")[: len(module.split(".")) - up] if node.level else []
            start = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return found


def rank(name: str) -> int:
    """The line of LAYERS a dotted name of mha belongs to; the root package and what isn't named come last."""
    part = [*name.split("."), ""][1]
    return next((line for line, parts in enumerate(LAYERS) if part in parts), len(LAYERS))


def wrong_imports(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Imports that run against the one way, as sentences."""
    found = sorted(imports(module, source, is_package=is_package))
    top = module.split(".")[0]
    wrong = [name for name in found if name.split(".")[0] in PACKAGES.keys() - PACKAGES[top]]
    if top == "mha" and rank(module) < len(LAYERS):
        same = ".".join(module.split(".")[:2])
        others = [name for name in found if name.split(".")[0] == "mha" and not f"{name}.".startswith(f"{same}.")]
        wrong += [name for name in others if rank(name) >= rank(module)]
    return [f"{module} imports {name}" for name in wrong]


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


def test_imports_run_one_way():
    checked, wrong = set(), []
    for module, path in modules(*PACKAGES):
        checked.add(module)
        wrong += wrong_imports(module, path.read_text(), is_package=path.name == "__init__.py")
    assert wrong == []
    assert {"mha", "mha.values.plan", "mha.families", "bench.tasks._training", "reports.__main__"} <= checked


def test_nothing_reads_or_writes_pickles():
    paths = {ROOT / "noxfile.py", *(path for _, path in modules(*PACKAGES, "tests"))}
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
        (
            "mha.values.plan",
            "from mha.pruning.slicing import prune",
            ["mha.values.plan imports mha.pruning.slicing.prune"],
        ),
        ("mha.values.plan", "import mha.values.layout", ["mha.values.plan imports mha.values.layout"]),
        (
            "mha.values.plan",
            "def late():\n    from mha import masking",
            ["mha.values.plan imports mha.pruning.masking"],
        ),
        ("mha.values.plan", "from . import masking", ["mha.values.plan imports mha.pruning.masking"]),
        ("mha.values.plan", "import mha", ["mha.values.plan imports mha"]),
        ("mha.values.plan", "from mha import HeadPlan", ["mha.values.plan imports mha.HeadPlan"]),
        ("mha.values.plan", "from mha.visualize import draw", ["mha.values.plan imports mha.visualize.draw"]),
        ("mha.values.plan", "import mhatmospheric.pruning", []),
        ("mha.pruning.masking", "from mha.families import find_attention\nimport mha.values.layout", []),
        ("mha.families.bert", "from mha.families.base.find import register\nfrom .description import Family", []),
        ("mha.families.bert", "from ..masking import masked", ["mha.families.bert imports mha.pruning.masking.masked"]),
        (
            "mha.importance.criteria.gate",
            "from mha.pruning.slicing import prune",
            ["mha.importance.criteria.gate imports mha.pruning.slicing.prune"],
        ),
        (
            "mha.pruning.slicing",
            "from mha.importance import score",
            ["mha.pruning.slicing imports mha.importance.score"],
        ),
        ("mha.planning.choose", "from mha.costs import CostTable\nfrom mha.timing import time_call", []),
        ("mha.timing", "from mha.costs import CostTable", ["mha.timing imports mha.costs.CostTable"]),
        ("mha.cli", "from mha import prune\nfrom mha.planning.choose import choose", []),
        ("mha.cli", "from bench import study", ["mha.cli imports bench.models.experiment"]),
        ("mha.values.plan", "import reports", ["mha.values.plan imports reports"]),
        ("bench.models.experiment", "import mha\nfrom bench import tasks\nfrom mha.values.plan import HeadPlan", []),
        (
            "bench.models.experiment",
            "from reports.read.load import load",
            ["bench.models.experiment imports reports.read.load.load"],
        ),
        ("reports.site.page", "from reports import frames\nfrom . import style", []),
        (
            "reports.site.page",
            "import mha.values.plan\nimport bench",
            ["reports.site.page imports bench", "reports.site.page imports mha.values.plan"],
        ),
    ],
)
def test_the_check_of_imports_finds_what_is_wrong(module, source, expected):
    assert wrong_imports(module, source) == expected


def test_relative_imports_of_a_package_start_at_itself():
    assert imports("mha.families", "from .registry import register", is_package=True) == {
        "mha.families.base.find.register"
    }
    assert imports("mha.families.bert", "from .registry import register") == {"mha.families.base.find.register"}


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
