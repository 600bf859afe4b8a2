"""Turns what the command line asks for into a gate that can run: makes checkouts and environments, and checks them."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import cpuinfo

from bench.measure import files
from bench.regress import environments
from bench.regress.baseline import NOTE, comparable, read_baseline
from bench.regress.checkouts import FOLDER, Checkouts, differs, make_checkouts, text_at, whole_base
from bench.regress.device import VARIABLE
from bench.regress.errors import GateError
from bench.regress.files import read_json, write_json
from bench.regress.gate import Gate, Say
from bench.regress.git import git, repository, resolved
from bench.regress.measuring import GateOptions
from bench.regress.verdict_rows import short
from bench.regress.workers import Arm, Worker

LOCK, PROJECT = "constraints.txt", "pyproject.toml"
OWN = (FOLDER, files.LOCK)  # that may be there before the first round


@dataclass(frozen=True)
class Wish:
    """What the command line asks for.

    Attributes:
        where: the repository, or a folder in it.
        base: the commit, branch or tag to compare with.
        directory: where the run's files go.
        command: the command line itself, for the verdict.
        python: the interpreter that environments are built from.
        here: use the environment of `python` itself for both sides, and build none.
        locked: the environment of `python` has what the head asks for, at the pins, and serves each side that asks for
            the same.
        without: benchmarks that the head lacks on purpose.
    """

    where: Path
    base: str
    directory: Path
    options: GateOptions
    command: str
    python: Path
    here: bool = False
    locked: bool = False
    without: tuple[str, ...] = ()


def prepared(wish: Wish, say: Say) -> Gate:
    """Check out both sides, find their environments, and check that they can be compared; returns the gate to run.

    Args:
        say: called with a sentence before work that takes long.

    Raises:
        GateError: a side can't be checked out, its environment can't be built, their interpreters differ, or the
            directory holds other files or a run of something else.
    """
    begun = _begun(wish)
    checkouts = make_checkouts(wish.where, begun["base"] if begun else wish.base, wish.directory)
    pythons = {side.name: _python(wish, checkouts, side.name, say) for side in (checkouts.base, checkouts.head)}
    facts = {name: environments.facts(python) for name, python in pythons.items()}
    notes = [*checkouts.notes, *filter(None, [environments.compared(facts["base"], facts["head"])])]
    variables = {VARIABLE: wish.options.device}
    base, head = (Arm(side.name, side.root, pythons[side.name], variables) for side in (checkouts.base, checkouts.head))
    about = {
        "command": wish.command,
        "mode": "base",
        "base": _side(checkouts.base, wish.base, facts["base"]),
        "head": _side(checkouts.head, "HEAD", facts["head"]),
        "machine": machine(wish.options, facts["head"]),
    }
    identity = {
        "base": checkouts.base.revision,
        "commits": [checkouts.base.commit, checkouts.head.commit],
        **_identity(wish, about),
    }
    _begin(wish, begun, identity)
    gone = _only_base(wish, checkouts, base, say)
    return Gate(wish.directory, (base, head), wish.options, about, tuple(notes), gone, say=say)


def alone(wish: Wish, stored: Path | None, say: Say) -> Gate:
    """The gate for this checkout as it is: to compare it with the run in the file `stored`, or else (None) to store it.

    Raises:
        GateError: `where` is in no git checkout, the file is no stored run, the interpreter can't be used, or the
            directory holds other files or a run of something else.
    """
    begun = _begun(wish)
    baseline = read_baseline(stored) if stored else None
    root = repository(wish.where)
    facts = environments.facts(wish.python)
    revision, dirty = resolved(root, "HEAD"), bool(git(root, "status", "--porcelain"))
    old = {"label": str(stored), "dirty": False, **(baseline.about if baseline else {})}
    about: dict[str, Any] = {
        "command": wish.command,
        "mode": "baseline",
        "base": {name: old.get(name) for name in ("label", "revision", "dirty", "python")},
        "head": {"label": "HEAD", "revision": revision, "dirty": dirty, "python": facts["python"]},
        "machine": machine(wish.options, facts),
    }
    digest = sha256(stored.read_bytes()).hexdigest() if stored else None
    _begin(wish, begun, {"base": digest, "commits": [revision], **_identity(wish, about)})
    notes = [NOTE.format(label=stored), comparable(baseline, about["machine"])[1]] if baseline else []
    if dirty:
        notes.append("The tree is dirty: it is measured as it is.")
    arm = Arm("head", root, wish.python, {VARIABLE: wish.options.device})
    return Gate(wish.directory, (arm,), wish.options, about, tuple(filter(None, notes)), baseline=baseline, say=say)


def machine(options: GateOptions, facts: dict[str, Any]) -> dict[str, Any]:
    """What times depend on beside the code: `cpu`, `cores`, `threads`, `device`, and `packages`: name -> version.

    `facts` are those of the head's interpreter (`environments.facts`).
    """
    packages = {name: facts["packages"].get(name) for name in ("torch", "numpy", "pytest-benchmark")}
    cpu = cpuinfo.get_cpu_info().get("brand_raw")
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "threads": options.threads,
        "device": options.device,
        "packages": packages,
    }


def _begun(wish: Wish) -> dict[str, Any] | None:
    """What the run in the wish's directory was begun with (gate.json); None where there is no run yet.

    Raises:
        GateError: the directory holds other files, or gate.json is no JSON.
    """
    path = wish.directory / "gate.json"
    if path.exists():
        return read_json(path)
    others = [each.name for each in wish.directory.iterdir() if each.name not in OWN] if wish.directory.is_dir() else []
    if others or wish.directory.is_file():
        raise GateError(f"--run {wish.directory} holds other files; give a directory that is empty or does not exist")
    return None


def _begin(wish: Wish, begun: dict[str, Any] | None, identity: dict[str, Any]) -> None:
    """Write `identity` to gate.json in the wish's directory.

    Raises:
        GateError: the run there was `begun` with something else, or the file can't be written.
    """
    if begun and begun != identity:
        changed = ", ".join(sorted(key for key in identity if begun.get(key) != identity[key]))
        raise GateError(f"--run {wish.directory} was begun with something else ({changed}); give another --run")
    write_json(wish.directory / "gate.json", identity)


def _identity(wish: Wish, about: dict[str, Any]) -> dict[str, Any]:
    """What must stay the same while a run goes on, for gate.json: the machine, and all options but the budget."""
    options = {name: value for name, value in asdict(wish.options).items() if name != "budget"}  # may be raised
    return {"options": {**options, "files": list(wish.options.files)}, "machine": about["machine"]}


def _python(wish: Wish, checkouts: Checkouts, name: str, say: Say) -> Path:
    """The path of the interpreter that the side `name` ("base" or "head") runs on; its environment is built if need be.

    Raises:
        GateError: a side has no pyproject.toml that can be read, or the environment can't be built.
    """
    if wish.here:
        return wish.python
    head = text_at(wish.where, checkouts.head.commit, PROJECT)
    project = text_at(wish.where, checkouts.base.revision, PROJECT) if name == "base" else head
    if wish.locked and environments.declared(project, name) == environments.declared(head, "head"):
        return wish.python
    return environments.environment(project, checkouts.head.root / LOCK, name=name, python=wish.python, say=say)


def _side(side: Any, label: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What the verdict says about a side: a mapping with `label`, `revision`, `dirty` and the version of `python`."""
    return {"label": label, "revision": side.revision, "dirty": side.dirty, "python": facts["python"]}


def _only_base(wish: Wish, checkouts: Checkouts, base: Arm, say: Say) -> tuple[str, ...]:
    """The benchmarks that the base's own files have and the head's don't, except those named by --without.

    There are none where both sides have the same files of benchmarks, or where the base has none that the gate can run.
    `base` is the base's arm, whose checkout has the head's files of benchmarks.

    Raises:
        GateError: the base can't be checked out, or its benchmarks can't be collected.
    """
    if not differs(wish.where, checkouts.base.revision, checkouts.head.commit, "bench/regress", *wish.options.files):
        return ()
    with whole_base(wish.where, checkouts.base, wish.directory) as root:
        files = [file for file in wish.options.files if (root / file).exists()]
        if not files or not (root / "bench/regress/interleaving.py").exists():
            return ()
        say("which benchmarks has the base?")
        before = _collected(Arm("base", root, base.python), files)
    after = set(_collected(base, wish.options.files))
    return tuple(name for name in before if name not in after and not {name, short(name)} & {*wish.without})


def _collected(arm: Arm, files: Sequence[str]) -> list[str]:
    """The names of the benchmarks that pytest finds in these files of the arm's checkout.

    Raises:
        GateError: the process of pytest has ended or hangs, or imports another checkout's `mha`.
    """
    with tempfile.TemporaryDirectory() as folder, Worker(arm, 0, files, Path(folder, "none.json"), 1) as worker:
        worker.wait_until_collected()
        return worker.collected
