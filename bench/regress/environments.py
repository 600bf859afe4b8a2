"""Builds a side's Python environment: the dependencies it declares, at the versions that the head's constraints pin.

An environment is kept, named by all that it depends on, so that two sides which declare the same share one: the same
files on disk are one difference less between the arms. `mha` itself is not in it; a checkout brings its own.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from platformdirs import user_cache_path

from bench.regress.errors import GateError

CACHE = "MHA_BENCH_CACHE"  # as in bench/tasks/_training.py, which can't be asked without importing torch
OLDEST = (3, 11)
MARK = "complete"  # the last file of an environment
LAST_WORDS = 12  # lines
OF_ANOTHER = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
ASK = """
import json, os, platform, sys
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "build": sys.version,
    "python": platform.python_version(),
    "implementation": platform.python_implementation(),
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
}))
"""
LIST = """
import json
from importlib.metadata import distributions
print(json.dumps([[each.name, each.version] for each in distributions()]))
"""
Build = Callable[[Path, str, Sequence[str], Path], None]  # folder, interpreter, requirements, lock


def environment(
    pyproject: str,
    lock: Path,
    *,
    name: str = "base",
    python: str | Path = sys.executable,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,  # noqa: ARG005
    build: Build | None = None,
) -> Path:
    """The path of the interpreter in an environment with a side's dependencies, which is built if it is not there yet.

    Args:
        pyproject: the text of the side's `pyproject.toml`.
        lock: the path of the head's constraints, as pip takes them.
        name: what messages call the side.
        python: the interpreter to build the environment from.
        cache: where environments are kept; default `cache_directory()`.
        say: called with a sentence before work that takes minutes.
        build: builds the environment; default `venv_with_pip`.

    Raises:
        GateError: the side does not say what it needs or wants another interpreter, `python` is no interpreter, or the
            environment can't be built.
    """
    needed, range_ = declared(pyproject, name)
    interpreter = _asked(python)
    _check(interpreter, range_, name)
    pins = _text(lock)
    identity = json.dumps([interpreter["executable"], interpreter["build"], sorted(needed), pins])
    folder = (cache or cache_directory()).absolute() / hashlib.sha256(identity.encode()).hexdigest()[:16]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / MARK).exists() or not _python_of(folder).exists():
                say(f"building the environment of the {name} in {folder}: some minutes, once")
                _build(folder, interpreter["executable"], needed, lock, name, build or venv_with_pip)
    except OSError as error:
        raise GateError(
            f"The environment of the {name} can't be kept in {folder}: {error.strerror or error}. "
            f"Mend that, or set {CACHE} to a folder with room"
        ) from error
    return _python_of(folder)


def cache_directory() -> Path:
    """The path where environments are kept: `gate` in $MHA_BENCH_CACHE, or else in the user's cache directory."""
    return Path(os.environ[CACHE] if os.environ.get(CACHE) else user_cache_path("mha")) / "gate"


def facts(python: str | Path) -> dict[str, Any]:
    """What an interpreter has: `python` (its version), `implementation`, and `packages`: name -> version.

    Raises:
        GateError: `python` is no interpreter that the gate can use.
    """
    asked = _asked(python)
    listed = json.loads(_called(str(python), "-I", "-c", LIST))
    packages = {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in listed if package}
    return {
        "python": asked["python"],
        "implementation": asked["implementation"],
        "packages": dict(sorted(packages.items())),
    }


def compared(base: Mapping[str, Any], head: Mapping[str, Any]) -> str | None:
    """A sentence for readers of the verdict on the packages in which two sides' `facts` differ; None if none do.

    Raises:
        GateError: the sides have different interpreters, by which their times would differ.
    """
    of_base, of_head = (f"{side['implementation']} {side['python']}" for side in (base, head))
    if of_base != of_head:
        raise GateError(
            f"The base runs on {of_base}, the head on {of_head}: times would differ by the interpreter. "
            "Give both the same by --python"
        )
    differences = [
        f"{package} {before or 'missing'} in the base, {after or 'missing'} in the head"
        for package in sorted({**base["packages"], **head["packages"]})
        if (before := base["packages"].get(package)) != (after := head["packages"].get(package))
    ]
    if not differences:
        return None
    return f"The two sides ask for different packages, which may move times too: {'; '.join(differences)}."


def venv_with_pip(folder: Path, executable: str, requirements: Sequence[str], lock: Path) -> None:
    """Make a virtual environment in `folder`, with the requirements at the versions that `lock` pins.

    Raises:
        GateError: venv or pip fails; the message is their last lines.
    """
    _called(executable, "-I", "-m", "venv", str(folder))
    pip(_python_of(folder), requirements, lock)


def pip(python: Path, requirements: Sequence[str], lock: Path) -> None:
    """Install the requirements into the environment of the interpreter `python`, at the versions that `lock` pins.

    Raises:
        GateError: pip fails; the message is its last lines.
    """
    options = ("--no-compile", "--no-input", "--disable-pip-version-check", "--progress-bar=off")
    if requirements:
        _called(str(python), "-I", "-m", "pip", "install", *options, "-c", str(lock.absolute()), *requirements)


def declared(pyproject: str, name: str) -> tuple[list[str], str]:
    """The dependencies that the text of a pyproject.toml declares, and the Pythons it allows, as ">=3.11" ("": any).

    Those of its extra `bench` are among them, where it has one: the benchmarks run in the environment.

    Raises:
        GateError: the text is no TOML, has no dependencies, or no range that can be read; the message says whose, by
            `name`.
    """
    try:
        project = tomllib.loads(pyproject).get("project", {})
        needed, range_ = project["dependencies"], project.get("requires-python", "")
        SpecifierSet(range_)
    except tomllib.TOMLDecodeError as error:
        raise GateError(
            f"pyproject.toml of the {name} is no TOML: {error}. Mend it, or choose another commit"
        ) from None
    except KeyError:
        raise GateError(
            f"pyproject.toml of the {name} has no `dependencies` under [project], so its environment can't be built; "
            "the gate compares commits that declare them there"
        ) from None
    except InvalidSpecifier as error:
        raise GateError(f"`requires-python` of the {name} can't be read: {error}. Mend it") from None
    return [*needed, *project.get("optional-dependencies", {}).get("bench", [])], range_


def _asked(python: str | Path) -> dict[str, Any]:
    """What an interpreter says about itself: the mapping that `ASK` prints in it, with `version`, `executable`, ….

    Raises:
        GateError: there is no such interpreter, it can't be run, or it is older than `OLDEST`.
    """
    want = f"give --python the path of a Python ≥ {'.'.join(map(str, OLDEST))}"
    try:
        answer = json.loads(_called(str(python), "-I", "-c", ASK))
    except FileNotFoundError:
        raise GateError(f"There is no interpreter {python}; {want}") from None
    except (OSError, ValueError, GateError) as error:
        raise GateError(f"{python} is no Python that the gate can use ({error}); {want}") from None
    if tuple(answer["version"]) < OLDEST:
        raise GateError(f"{python} is Python {answer['python']}; {want}")
    return answer


def _check(interpreter: Mapping[str, Any], range_: str, name: str) -> None:
    """Check that the interpreter (see `_asked`) has a version in the range that the side `name` declares.

    Raises:
        GateError: it has not.
    """
    if not SpecifierSet(range_).contains(".".join(map(str, interpreter["version"]))):
        raise GateError(
            f"The {name} is made for Python {range_} (`requires-python`), but {interpreter['executable']} is "
            f"{interpreter['python']}; give --python an interpreter that both sides allow"
        )


def _build(folder: Path, executable: str, needed: Sequence[str], lock: Path, name: str, build: Build) -> None:
    """Build an environment in its folder, since it can't be moved afterwards, and mark it as complete at the end.

    Raises:
        GateError: `build` has raised one; the folder is removed.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted build
    try:
        build(folder, executable, needed, lock)
    except GateError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise GateError(
            f"The {name} can't be built: its dependencies don't install on {executable} at the versions of {lock}.\n"
            f"{error}\nMend what these lines say, or compare with another commit"
        ) from error
    (folder / MARK).touch()


def _called(*command: str) -> str:
    """Run a command without variables of another Python in its environment, and return what it prints.

    Raises:
        GateError: the command fails; the message is the last lines of its output.
        OSError: it can't be started.
    """
    outside = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER}
    done = subprocess.run(command, env=outside, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise GateError("\n".join(lines[-LAST_WORDS:]) or f"exit code {done.returncode}")
    return done.stdout


def _python_of(folder: Path) -> Path:
    """The path of the interpreter of the environment in this folder."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _text(lock: Path) -> str:
    """The text of the constraints file.

    Raises:
        GateError: it can't be read.
    """
    try:
        return lock.read_text(encoding="utf-8")
    except OSError as error:
        raise GateError(
            f"{lock} can't be read ({error.strerror}); the gate builds both sides at the versions that it pins"
        ) from error
