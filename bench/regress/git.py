"""Runs git for the gate, in the same way whatever the user's configuration, hooks and environment say."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.regress.errors import GateError

SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.splitIndex": "false",
    "commit.gpgsign": "false",
    "advice.detachedHead": "false",
    "gc.auto": "0",
}
COMMITTER = {  # the same tree gives the same commit, whoever asks and whenever
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "gate"), ("EMAIL", "gate@localhost"), ("DATE", "2000-01-01T00:00:00Z"))
}
KEPT = ("GIT_CONFIG_", "GIT_EXEC_PATH")


def repository(where: Path) -> Path:
    """The top folder of the git checkout that the folder `where` is in, resolved.

    Raises:
        GateError: the folder is in no checkout, or git is not installed.
    """
    done = run(where, "rev-parse", "--show-toplevel")
    if done.returncode:
        raise GateError(
            f"{where} is not in a git checkout: {said(done)}\nThe gate compares two commits: run it in a clone"
        )
    return Path(done.stdout.removesuffix("\n")).resolve()


def resolved(where: Path, label: str) -> str | None:
    """The hash of the commit that a label (a branch, a tag, …) names in the repository at `where`; None if none."""
    done = run(where, "rev-parse", "--verify", "--quiet", f"{label}^{{commit}}")
    commit = done.stdout.strip()
    return commit if done.returncode == 0 and commit.isalnum() else None  # ^HEAD means all but HEAD


def new_commit(root: Path, tree: str, message: str) -> str:
    """Make a commit of the tree with this hash, without parents and on no branch; returns the commit's hash."""
    return git(root, "commit-tree", tree, "-m", message).strip()


def git(where: Path, *arguments: str, index: Path | None = None, stdin: str = "") -> str:
    """Run git in a folder, and return what it prints.

    Args:
        index: a file to use in place of the user's index.
        stdin: what git reads from standard input.

    Raises:
        GateError: git fails, or is not installed.
    """
    done = run(where, *arguments, index=index, stdin=stdin)
    if done.returncode:
        raise GateError(
            f"`git {' '.join(arguments)}` failed in {where}: {said(done)}\nMend that, then run the gate again"
        )
    return done.stdout


def run(where: Path, *arguments: str, index: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run git like the function `git`, but return the finished process, with its exit code, also where git fails.

    Raises:
        GateError: git is not installed.
    """
    settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    command = ["git", "-C", str(where), "--literal-pathspecs", *settings, *arguments]
    try:
        return subprocess.run(
            command,
            env=without_git(os.environ) | COMMITTER | _wishes(index),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # names of files may be any bytes
        )
    except FileNotFoundError as error:
        raise GateError("git is not installed, or not on PATH; the gate needs it to check out both sides") from error


def without_git(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables without those for git, which hooks set, and by which it would use another repository.

    Those that begin as `KEPT` says stay.
    """
    return {name: value for name, value in environment.items() if not name.startswith("GIT_") or name.startswith(KEPT)}


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What git printed to stderr when it failed, as printable text without "fatal: "; if nothing, its exit code."""
    words = done.stderr.strip().encode("utf-8", "replace").decode()
    return words.removeprefix("fatal: ") or f"exit code {done.returncode}"


def _wishes(index: Path | None) -> dict[str, str]:
    """The environment variables by which git takes no optional locks, speaks English, and uses `index` if given."""
    chosen = {"GIT_INDEX_FILE": str(index)} if index else {}
    return {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **chosen}
