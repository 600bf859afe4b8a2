"""What the files of the house say about one another: commands, versions, pins, licence."""

import ast
import os
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import mha
from tools import test_minutes as minutes

ROOT = Path(__file__).parent.parent
BENCH_COMMAND = "python -m pip install nox && nox -s bench"
TEST_COMMAND = "python -m pip install nox && nox -s tests"


def text(*path: str) -> str:
    return ROOT.joinpath(*path).read_text(encoding="utf-8")


def is_session(decorator: ast.expr) -> bool:
    return ast.unparse(decorator).partition("(")[0] == "nox.session"


def found(pattern: str, where: str) -> list[str]:
    return re.findall(pattern, where, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads(text("pyproject.toml"))["project"]


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    """Name -> the version that constraints.txt pins."""
    lines = [line for line in text("constraints.txt").splitlines() if line and not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    for line, requirement in zip(lines, requirements, strict=True):
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], line
        assert requirement.marker is None, f"{line}: one version for all platforms and Pythons"
    pins = {canonicalize_name(r.name): Version(next(iter(r.specifier)).version) for r in requirements}
    assert len(pins) == len(lines), "a name is pinned twice"
    return pins


def test_the_readme_gives_both_commands():
    readme = text("README.md").splitlines()
    for command in (BENCH_COMMAND, TEST_COMMAND):
        assert any(command in line for line in readme), f"README.md does not say: {command}"


@pytest.mark.parametrize("path", [(".ci", "run"), (".github", "workflows", "ci.yml")], ids=".".join)
def test_ci_runs_the_readmes_test_command(path):
    assert re.search(rf"(^|run: ){re.escape(TEST_COMMAND)}( \|\| exit)?$", text(*path), flags=re.MULTILINE)


def test_ci_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert text(".ci", "run").startswith("#!/usr/bin/env bash\n")


def test_the_sessions_are_those_the_docs_name():
    functions = [node for node in ast.parse(text("noxfile.py")).body if isinstance(node, ast.FunctionDef)]
    sessions = {node.name for node in functions if any(map(is_session, node.decorator_list))}
    assert sessions == {
        *(
            "accelerator",
            "bench",
            "calibrate_gate",
            "cluster_scale",
            "docs",
            "exports",
            "families",
            "importance",
            "lint",
            "peers",
            "profile",
            "promise",
            "publish",
        ),
        *("regress", "repair", "report", "runtimes", "tests", "tests_all", "types", "wheel"),
    }


def test_one_version(project):
    assert project["version"] == mha.__version__
    assert found(r"^version: (.+)$", text("CITATION.cff")) == [mha.__version__]


def test_the_last_release_is_in_the_changelog():
    version, date = (
        found(r"^version: (.+)$", text("CITATION.cff")),
        found(r'^date-released: "(.+)"$', text("CITATION.cff")),
    )
    releases = re.findall(r"^## \[(\d.+?)\] - (.+)$", text("CHANGELOG.md"), flags=re.MULTILINE)
    assert [releases[0]] == list(zip(version, date, strict=True))


def test_one_licence(project):
    assert project["license"] == "MIT"
    assert found(r"^license: (.+)$", text("CITATION.cff")) == ["MIT"]
    assert text("LICENSE").startswith("MIT License")


def test_every_declared_dependency_is_pinned_within_its_range(project, pins):
    declared = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    wrong = []
    for requirement in (part for part in map(Requirement, declared) if part.name != project["name"]):
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None or pin not in requirement.specifier:
            wrong.append(f"{requirement}: pinned is {pin}")
    assert wrong == []


def test_pins_hold_for_every_build_of_a_version(pins):
    assert {name: pin for name, pin in pins.items() if pin.local} == {}


def test_pre_commit_uses_the_pinned_tools(pins):
    config = text(".pre-commit-config.yaml")
    revision = found(r"repo: \S*/ruff-pre-commit\n +rev: v(\S+)$", config)
    assert [Version(version) for version in revision] == [pins["ruff"]]
    assert [Version(version) for version in found(r"nox==([^\]]+)\]", config)] == [pins["nox"]]


def test_ci_covers_every_python_the_project_promises(project):
    (matrix,) = found(r"^ +python: \[(.+)\]$", text(".github", "workflows", "ci.yml"))
    promised = SpecifierSet(project["requires-python"])
    tested = [version.strip(' "') for version in matrix.split(",")]
    assert tested == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in promised]


def test_the_changelog_has_a_place_for_what_comes_next():
    assert found(r"^## \[(.+?)\]", text("CHANGELOG.md"))[0] == "Unreleased"


def test_no_test_imports_another():
    """What two of them need stands in a module that is no test: the first to run would be imported twice."""
    pattern = r"^.*(?:from|import) (?:tests|tools)\.\S*(?:test_|conftest).*$"
    files = sorted(path for folder in ("tests", "tools") for path in ROOT.joinpath(folder).rglob("*.py"))
    lines = {str(path.relative_to(ROOT)): found(pattern, path.read_text(encoding="utf-8")) for path in files}
    assert len(lines) > 100
    assert {name: imports for name, imports in lines.items() if imports} == {}


def test_the_reference_has_every_public_name_once():
    pages = sorted(ROOT.joinpath("docs", "reference").glob("*.md"))
    reference = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    shown = found(r"^\.\. auto(?:class|function|exception):: mha\.(\w+)$", reference)
    assert sorted(shown) == sorted(set(mha.__all__) - {"tasks", "visualize"})


def definitions(path: Path) -> set[str]:
    """Names of the functions and classes of a file, methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


def missing_places(document: str) -> list[str]:
    """Files, folders and functions (file.py::function) that a document names and that are not there.

    A name in capitals stands for one that the reader chooses.
    """
    places = re.findall(r"`((?:mha|bench|reports|tests|tools|docs|\.github)/[^`\s]*)`", document)
    missing = []
    for place in places:
        path, _, name = place.partition("::")
        chosen = re.search(r"[A-Z]{3,}", path) is not None
        if not chosen and (not (ROOT / path).exists() or (name and name not in definitions(ROOT / path))):
            missing.append(place)
    return missing


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "SECURITY.md"])
def test_files_and_functions_that_a_document_names_are_there(document):
    assert missing_places(text(document)) == []


def test_places_that_are_missing_are_found():
    document = "`mha/values/plan.py::HeadPlan`, `mha/values/plan.py::Nothing`, `mha/nowhere.py`, `mha/families/NAME.py`"
    assert missing_places(document) == ["mha/values/plan.py::Nothing", "mha/nowhere.py"]


def test_seconds_of_tests_are_summed_by_area(tmp_path):
    cases = [("tests.mha.pruning.checkpoint.test_a", "one", 1.5), ("tests.mha.pruning.test_b", "two[x]", 2.0)]
    cases += [("tests.mha.test_c", "three", 9.0), ("tests.mha.pruning.test_b", "two[y]", 0.6)]
    elements = "".join(f'<testcase classname="{module}" name="{name}" time="{time}"/>' for module, name, time in cases)
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{elements}</testsuite></testsuites>")
    seconds = minutes.seconds_of_tests(tmp_path / "tests.xml")
    assert minutes.by_area(seconds) == ["| tests/mha | 1 | 9 |", "| tests/mha/pruning | 3 | 4 |"]
    assert minutes.by_file(seconds, 2)[1] == "| tests/mha/pruning/test_b.py | 2 | 3 |"
