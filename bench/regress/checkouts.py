"""Makes the two checkouts that are compared: the base's `mha/` and the head's, each among the head's other files.

Both are made of git's objects alone: the user's files, index and branches stay as they are. All that is
added are entries in `.git/worktrees`, which `remove` takes away, and objects that git collects once nothing names them.
"""

import difflib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.regress.errors import GateError
from bench.regress.git import git, new_commit, repository, resolved, run, said

LIBRARY = "mha"
FOLDER = "sides"
BASE, HEAD, WHOLE = "base", "head", "whole"  # equally long: the length of a path moves memory, and so times


@dataclass(frozen=True)
class Checkout:
    """One of the two checkouts.

    Attributes:
        name: which side it is.
        label: what the user calls it, such as "origin/main".
        revision: the hash of the commit that a person knows: the base's, or that of HEAD.
        dirty: whether the files differ from that revision, and are measured as they are.
        commit: the hash of the commit that is checked out, which may be on no branch.
        root: the folder of the checkout.
    """

    name: Literal["base", "head"]
    label: str
    revision: str
    dirty: bool
    commit: str
    root: Path


@dataclass(frozen=True)
class Checkouts:
    """Both checkouts; `identical` says whether they have the same `mha/`."""

    base: Checkout
    head: Checkout
    identical: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for readers of the verdict, if so: the head has uncommitted changes, both have the same `mha/`."""
        dirty = f"The tree is dirty: measured as it is, with changes since {self.head.revision[:12]}."
        identical = f"The base and the head have the same {LIBRARY}/: what differs in times is noise."
        return tuple(note for note, holds in ((dirty, self.head.dirty), (identical, self.identical)) if holds)


def make_checkouts(where: Path, base: str, folder: Path) -> Checkouts:
    """Check out both sides at `folder/sides/base` and `folder/sides/head`, or reuse the checkouts that are there.

    Args:
        where: the repository, or any folder in it.
        base: what to compare with: a branch, a tag, a commit.
        folder: the directory of the gate's run, whose files do not count as files of the head.

    Raises:
        GateError: there is no such base, it or HEAD has no `mha/`, the index has conflicts, the folder holds checkouts
            of other code, or git can't write.
    """
    root = repository(where)
    folder = folder.resolve()
    if root.is_relative_to(folder):
        raise GateError(f"--run {folder} holds the repository itself; give a folder of its own")
    revision = _head(root)
    before = _commit(root, base)
    head = _as_it_is(root, revision, folder)
    old, new = _library(root, before, base), _library(root, head, "HEAD")
    mixed = _with_library(root, head, old, f"{head} with the {LIBRARY}/ of {before}, for the gate")
    sides = _folder(folder)
    _check_out(root, sides / BASE, mixed)
    _check_out(root, sides / HEAD, head)
    return Checkouts(
        Checkout("base", base, before, False, mixed, sides / BASE),
        Checkout("head", "HEAD", revision, head != revision, head, sides / HEAD),
        identical=old == new,
    )


def remove(where: Path, folder: Path) -> None:
    """Remove the checkouts that `make_checkouts` made in `folder`, as far as that can be done; nothing is raised."""
    sides = folder.resolve() / FOLDER
    with suppress(GateError, OSError):
        root = repository(where)
        if (sides / ".gitignore").exists():
            for name in (BASE, HEAD, WHOLE):
                _take_away(root, sides / name)
            shutil.rmtree(sides, ignore_errors=True)


@contextmanager
def whole_base(where: Path, base: Checkout, folder: Path) -> Iterator[Path]:
    """Within the context the base commit is checked out with all of its own files; yields the path of that checkout.

    Raises:
        GateError: git can't write.
    """
    root = repository(where)
    path = _folder(folder.resolve()) / WHOLE
    _take_away(root, path)
    try:
        _check_out(root, path, base.revision)
        yield path
    finally:
        with suppress(GateError, OSError):
            _take_away(root, path)


def differs(where: Path, before: str, after: str, *paths: str) -> bool:
    """Whether two commits differ in any of these files or folders, given as paths from the top of the repository.

    Raises:
        GateError: git can't compare them, or `where` is in no checkout.
    """
    done = run(repository(where), "diff-tree", "-r", "--quiet", before, after, "--", *paths)
    if done.returncode > 1:
        raise GateError(f"git can't compare {before} with {after}: {said(done)}")
    return done.returncode == 1


def text_at(where: Path, commit: str, path: str) -> str:
    """The text of a file at a commit; `path` is from the top of the repository.

    Raises:
        GateError: the commit has no such file.
    """
    done = run(repository(where), "cat-file", "blob", f"{commit}:{path}")
    if done.returncode:
        raise GateError(f"{commit[:12]} has no {path}, which the gate needs; compare with a commit that has it")
    return done.stdout


def _head(root: Path) -> str:
    """The hash of the commit of HEAD.

    Raises:
        GateError: there is no commit yet, or files have conflicts.
    """
    if not (revision := resolved(root, "HEAD")):
        raise GateError(f"{root} has no commit yet, so there is nothing to compare: commit first")
    if unmerged := git(root, "ls-files", "--unmerged", "-z").split("\0")[:-1]:
        names = dict.fromkeys(line.partition("\t")[2] for line in unmerged)
        raise GateError(
            f"{root} has conflicts in {', '.join(names)}: resolve them and `git add` the files, or `git merge --abort`"
        )
    return revision


def _commit(root: Path, label: str) -> str:
    """The hash of the commit that `label` (of --base) names.

    Raises:
        GateError: it names none; the message says how to get it.
    """
    if commit := resolved(root, label):
        return commit
    remote, _, branch = label.partition("/")
    remotes = git(root, "remote").split()
    remote, branch = (remote, branch) if remote in remotes and branch else (next(iter(remotes), ""), "")
    # a clone of one branch fetches another to FETCH_HEAD only, unless it is told where to keep it
    fetch = f"{remote} {branch}:refs/remotes/{remote}/{branch}" if branch else f"--tags {remote} {label}"
    names = git(root, "for-each-ref", "--format=%(refname:short)").split()
    if git(root, "rev-parse", "--is-shallow-repository").strip() == "true":
        advice = (
            "This is a shallow clone, which holds only the newest commits: "
            f"`git fetch --unshallow {fetch}`, or, in a GitHub workflow, `fetch-depth: 0` for actions/checkout"
        )
    else:
        advice = f"Fetch it first: `git fetch {fetch}`" if remote else "This clone has no remote to fetch it from"
    near = difflib.get_close_matches(label, names)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    raise GateError(f"--base {label}: {root} has no such commit, branch or tag{meant}\n{advice}")


def _as_it_is(root: Path, revision: str, ours: Path) -> str:
    """The hash of the commit of the working tree as it is: `revision` if nothing has changed since, else a new one.

    The new one is on no branch. New files in the folder `ours` belong to the run and are left out, as are repositories
    within this one (by update-index).
    """
    with tempfile.TemporaryDirectory() as temporary:
        index = Path(temporary, "index")
        current = root / git(root, "rev-parse", "--git-path", "index").removesuffix("\n")
        if current.exists():
            shutil.copy2(current, index)  # with its time, by which git tells which files it has to read
        else:
            git(root, "read-tree", revision, index=index)
        git(root, "add", "--update", index=index)
        others = git(root, "ls-files", "--others", "--exclude-standard", "-z", index=index).split("\0")[:-1]
        new = [name for name in others if not (root / name).is_relative_to(ours)]
        git(root, "update-index", "--add", "--remove", "-z", "--stdin", index=index, stdin="\0".join([*new, ""]))
        tree = git(root, "write-tree", index=index).strip()
    if tree == git(root, "rev-parse", f"{revision}^{{tree}}").strip():
        return revision
    return new_commit(root, tree, f"The files on top of {revision}, as the gate found them")


def _with_library(root: Path, commit: str, library: str, message: str) -> str:
    """Make a commit with the files of `commit`, but another `mha/`, and return its hash.

    `library` is the entry of that `mha/` (see `_library`).
    """
    listing = "".join(f"{entry}\t{name}\0" for name, entry in {**_entries(root, commit), LIBRARY: library}.items())
    tree = git(root, "mktree", "-z", stdin=listing).strip()
    return new_commit(root, tree, message)


def _library(root: Path, commit: str, label: str) -> str:
    """The entry of `mha/` in a commit, as git lists it: mode, type and object.

    Raises:
        GateError: the commit, which the message calls `label`, has no such folder.
    """
    entry = _entries(root, commit, LIBRARY).get(LIBRARY, "")
    if not entry.startswith("040000 tree"):
        raise GateError(
            f"{label} ({commit[:12]}) has no folder {LIBRARY}/, so nothing can be compared: choose one that has"
        )
    return entry


def _entries(root: Path, commit: str, *names: str) -> dict[str, str]:
    """The entries at the top of a commit, all or only those of these names: name -> mode, type and object."""
    lines = git(root, "ls-tree", "--full-tree", "-z", commit, *names).split("\0")[:-1]
    return {name: entry for entry, _, name in (line.partition("\t") for line in lines)}


def _folder(folder: Path) -> Path:
    """Make the folder for the checkouts in the run's folder, and return its path.

    A .gitignore in it hides it from git and marks it as the gate's.

    Raises:
        GateError: it is there, not empty, and not marked; or it can't be made.
    """
    sides = folder / FOLDER
    mark = sides / ".gitignore"
    try:
        if sides.exists() and not mark.exists() and any(sides.iterdir()):
            raise GateError(f"{sides} is there, but no gate made it; give another --run")
        sides.mkdir(parents=True, exist_ok=True)
        mark.write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise GateError(
            f"{sides} can't be made ({error.strerror or error}); mend that, or give another --run"
        ) from error
    return sides


def _check_out(root: Path, path: Path, commit: str) -> None:
    """Check the commit out at the path, unless it is there; what an interrupted run left half done is made anew.

    Raises:
        GateError: another commit is checked out there, or git can't do it.
    """
    there = _checked_out(path)
    if there == commit and _is_whole(path):
        return
    if there and there != commit:
        raise GateError(
            f"{path} holds {there[:12]}, but {commit[:12]} is wanted: the run was begun with other code. "
            "Results of different code are never mixed: give another --run, or go back to what it was begun with"
        )
    _take_away(root, path)
    done = run(root, "worktree", "add", "--detach", str(path), commit)
    if done.returncode:
        raise GateError(
            f"{commit[:12]} can't be checked out at {path}: {said(done)}. Mend that (is there room left on the disk?), "
            "then go on by the same command with the same --run, or give a --run elsewhere"
        )


def _checked_out(path: Path) -> str | None:
    """The hash of the commit that is checked out at a path; None where none is."""
    return resolved(path, "HEAD") if (path / ".git").is_file() else None


def _is_whole(path: Path) -> bool:
    """Whether a checkout has all files of its commit, unchanged; new files do not count."""
    done = run(path, "status", "--porcelain", "--untracked-files=no")
    return done.returncode == 0 and not done.stdout


def _take_away(root: Path, path: Path) -> None:
    """Remove the checkout at `path`, if it is there, and the entry that git keeps of it in the repository `root`."""
    shutil.rmtree(path, ignore_errors=True)  # first: git removes the entry of what is gone, but not of what is broken
    run(root, "worktree", "remove", "--force", "--force", str(path))  # twice: git locks what it is still making
