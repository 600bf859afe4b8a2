"""The two checkouts of the regression gate, and the environments they run in."""

import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bench.tasks._training
from bench.regress import environments
from bench.regress.checkouts import differs, make_checkouts, remove, text_at, whole_base
from bench.regress.environments import compared, environment, facts
from bench.regress.errors import GateError

FILES = {
    "mha/__init__.py": "VERSION = 1\n",
    "mha/old.py": "",
    "bench/bench_a.py": "A = 1\n",
    "bench/bench_only_base.py": "",
    "docs/a.md": "one\n",
    ".gitignore": "*.log\n/runs/\n",
    "pyproject.toml": "[project]\n",
}
NOBODYS = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}  # configuration


def git(where, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "protocol.file.allow=always"]
    command = ["git", "-C", str(where), *identity, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | NOBODYS)
    return done.stdout.strip()


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def commit(root, files, *, without=()):
    write(root, files)
    for name in without:
        (root / name).unlink()
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a change")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def _nobodys_configuration(monkeypatch):
    for name, value in NOBODYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def repo(tmp_path, template):
    """Two commits, the first tagged `before`; the second changes mha/ and bench/."""
    return shutil.copytree(template, tmp_path / "our räpo")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template")
    git(root, "init", "-q", "-b", "main", "--template=")
    git(root, "config", "user.useConfigOnly", "true")
    commit(root, FILES)
    git(root, "tag", "before")
    changed = {
        "mha/__init__.py": "VERSION = 2\n",
        "mha/new ü.py": "",
        "bench/bench_a.py": "A = 2\n",
        "docs/a.md": "two\n",
    }
    commit(root, changed, without=("mha/old.py", "bench/bench_only_base.py"))
    return root


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run of a gate"


def files(root):
    """Name -> text of all files but git's."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and ".git" not in path.relative_to(root).parts)
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in found}


def state(root):
    """What of the user's must stay as it is."""
    asked = (("for-each-ref",), ("rev-parse", "HEAD"), ("stash", "list"), ("reflog",))
    return [git(root, *words) for words in asked], (root / ".git" / "index").read_bytes(), files(root)


def worktrees(root):
    return re.findall(r"^worktree (.+)$", git(root, "worktree", "list", "--porcelain"), re.MULTILINE)


# What is checked out


def test_both_sides_have_the_heads_benchmarks_and_each_its_own_library(repo, folder):
    before = state(repo)
    sides = make_checkouts(repo, "before", folder)
    assert state(repo) == before
    assert files(sides.head.root) == files(repo)
    rest = {name: text for name, text in files(repo).items() if not name.startswith("mha/")}
    assert files(sides.base.root) == {**rest, "mha/__init__.py": "VERSION = 1\n", "mha/old.py": ""}
    assert (sides.base.name, sides.base.label, sides.base.dirty) == ("base", "before", False)
    assert (sides.head.name, sides.head.label, sides.head.dirty) == ("head", "HEAD", False)
    assert sides.base.revision == git(repo, "rev-parse", "before")
    assert sides.head.revision == sides.head.commit == git(repo, "rev-parse", "HEAD")
    assert sides.base.commit not in (sides.base.revision, sides.head.revision)
    assert not sides.identical
    assert sides.notes == ()


def test_paths_of_both_sides_are_equally_long(repo, folder):
    sides = make_checkouts(repo, "before", folder)
    assert sides.base.root == folder / "sides" / "base"
    assert len(str(sides.base.root)) == len(str(sides.head.root))


def test_a_clean_tree_against_itself_is_identical(repo, folder):
    sides = make_checkouts(repo, "HEAD", folder)
    assert sides.identical
    assert files(sides.base.root) == files(sides.head.root)
    assert [note for note in sides.notes if "same mha/" in note] == list(sides.notes) != []


def test_a_dirty_tree_is_measured_as_it_is(repo, folder):
    write(repo, {"mha/__init__.py": "VERSION = 3\n", "mha/untracked.py": "", "bench/staged.py": "", "a.log": "ignored"})
    write(repo, {"forced.log": "in the index, though ignored"})
    (repo / "docs" / "a.md").unlink()
    git(repo, "add", "bench/staged.py")
    git(repo, "add", "--force", "forced.log")
    before = state(repo)
    sides = make_checkouts(repo, "before", folder)
    assert state(repo) == before
    assert sides.head.dirty
    assert not sides.base.dirty
    assert sides.head.revision == git(repo, "rev-parse", "HEAD") != sides.head.commit
    expected = {name: text for name, text in files(repo).items() if name != "a.log"}
    assert files(sides.head.root) == expected
    assert "docs/a.md" not in files(sides.base.root)
    assert files(sides.base.root)["mha/__init__.py"] == "VERSION = 1\n"
    (note,) = sides.notes
    assert sides.head.revision[:12] in note
    assert "dirty" in note


def test_a_change_of_equal_size_is_seen_even_right_after_a_commit(repo, folder):
    index, path = repo / ".git" / "index", repo / "mha" / "__init__.py"
    git(repo, "config", "core.trustctime", "false")
    path.write_text("VERSION = 8\n")
    os.utime(path, (1e9, 1e9))
    commit(repo, {})
    os.utime(index, (1e9, 1e9))
    path.write_text("VERSION = 9\n")
    os.utime(path, (1e9, 1e9))
    assert files(make_checkouts(repo, "before", folder).head.root)["mha/__init__.py"] == "VERSION = 9\n"


def test_what_was_staged_and_undone_is_not_dirty(repo, folder):
    write(repo, {"docs/a.md": "three\n"})
    git(repo, "add", "-A")
    write(repo, {"docs/a.md": "two\n"})
    assert not make_checkouts(repo, "before", folder).head.dirty


def test_the_runs_own_files_and_repositories_within_are_not_part_of_the_head(repo):
    for name in ("inner", "unborn"):
        (repo / name).mkdir()
        git(repo / name, "init", "-q")
        write(repo, {f"{name}/file.py": ""})
    commit(repo / "inner", {})
    write(repo, {"here/gate.json": "{}"})
    sides = make_checkouts(repo, "before", repo / "here")
    assert not sides.head.dirty
    assert make_checkouts(repo, "before", repo / "here") == sides
    assert git(repo, "status", "--porcelain", "--untracked-files=all").split("\n") == [
        "?? here/gate.json",
        "?? inner/",
        "?? unborn/",
    ]


def test_changes_to_tracked_files_in_the_runs_folder_count(repo):
    write(repo, {"docs/a.md": "three\n"})
    assert files(make_checkouts(repo, "before", repo / "docs").head.root)["docs/a.md"] == "three\n"


def test_from_a_folder_within_and_from_a_linked_worktree(repo, folder, tmp_path):
    expected = make_checkouts(repo / "bench", "before", folder)
    assert expected.head.revision == git(repo, "rev-parse", "HEAD")
    git(repo, "worktree", "add", "-q", "--detach", str(tmp_path / "linked"), "before")
    sides = make_checkouts(tmp_path / "linked" / "mha", "main", tmp_path / "other")
    assert sides.head.revision == git(repo, "rev-parse", "before")
    assert files(sides.base.root)["mha/__init__.py"] == "VERSION = 2\n"
    assert files(sides.base.root)["bench/bench_a.py"] == "A = 1\n"


def test_what_a_hook_finds_in_its_environment_changes_nothing(repo, folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    sides = make_checkouts(repo, "before", folder)
    remove(repo, folder)
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name)
    assert sides.head.revision == git(repo, "rev-parse", "HEAD")
    assert worktrees(repo) == [str(repo)]


def test_neither_hooks_nor_signatures_get_in_the_way(repo, folder, tmp_path):
    for name in ("post-checkout", "post-index-change", "reference-transaction"):
        hook = repo / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\nexit 1\n")
        hook.chmod(0o755)
    git(repo, "config", "commit.gpgsign", "true")
    git(repo, "config", "gpg.program", "false")
    write(repo, {"docs/a.md": "three\n"})
    assert make_checkouts(repo, "before", folder).head.dirty
    assert not (tmp_path / "ran").exists()


# Resuming, and taking away


def test_the_same_call_finds_what_is_there(repo, folder):
    write(repo, {"docs/a.md": "three\n"})
    first = make_checkouts(repo, "before", folder)
    inode = (first.head.root / "docs" / "a.md").stat().st_ino
    write(first.base.root, {"mha/__pycache__/left.pyc": "", "mha/a.log": ""})
    assert make_checkouts(repo, "before", folder) == first
    assert (first.head.root / "docs" / "a.md").stat().st_ino == inode
    assert (first.base.root / "mha" / "a.log").exists()


@pytest.mark.parametrize(("base", "change"), [("before", {"mha/new.py": ""}), ("HEAD", {})], ids=["head", "base"])
def test_a_run_begun_with_other_code_does_not_go_on(repo, folder, base, change):
    sides = make_checkouts(repo, "before", folder)
    before = files(folder)
    write(repo, change)
    with pytest.raises(GateError, match=r"begun with other code[^$]*give another --run"):
        make_checkouts(repo, base, folder)
    assert files(folder) == before
    assert sides.base.root.exists()


def _unindexed(_, entry):
    (entry / "index").unlink()


def _file_lost(path, _):
    (path / "bench" / "bench_a.py").unlink()


def _checkout_cut_off(path, entry):
    _file_lost(path, entry)
    _unindexed(path, entry)
    (entry / "locked").write_text("initializing")
    (entry / "index.lock").touch()


def _folder_lost(path, _):
    shutil.rmtree(path)


def _folder_lost_and_locked(path, entry):
    shutil.rmtree(path)
    (entry / "locked").write_text("initializing")


def _link_lost(path, _):
    (path / ".git").unlink()


def _entry_lost(_, entry):
    shutil.rmtree(entry)


BROKEN = [_unindexed, _file_lost, _checkout_cut_off, _folder_lost, _folder_lost_and_locked, _link_lost, _entry_lost]


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__.strip("_"))
def test_a_half_made_checkout_is_mended(repo, folder, damage):
    sides = make_checkouts(repo, "before", folder)
    expected = files(sides.base.root), files(sides.head.root)
    damage(sides.base.root, repo / ".git" / "worktrees" / "base")
    assert make_checkouts(repo, "before", folder) == sides
    assert (files(sides.base.root), files(sides.head.root)) == expected
    remove(repo, folder)
    assert worktrees(repo) == [str(repo)]


@pytest.mark.parametrize("damage", BROKEN[-3:], ids=lambda damage: damage.__name__.strip("_"))
def test_a_broken_checkout_can_be_removed(repo, folder, damage):
    sides = make_checkouts(repo, "before", folder)
    damage(sides.base.root, repo / ".git" / "worktrees" / "base")
    remove(repo, folder)
    assert not (folder / "sides").exists()
    assert worktrees(repo) == [str(repo)]


def test_removing_takes_away_ours_only_and_can_be_done_twice(repo, folder, tmp_path):
    git(repo, "worktree", "add", "-q", "--detach", str(tmp_path / "on a removed disk"))
    shutil.rmtree(tmp_path / "on a removed disk")
    before = state(repo)
    make_checkouts(repo, "before", folder)
    write(folder, {"gate.json": "{}"})
    assert len(worktrees(repo)) == 4
    for _ in range(2):
        remove(repo, folder)
        assert files(folder) == {"gate.json": "{}"}
        assert worktrees(repo) == [str(repo), str(tmp_path / "on a removed disk")]
    assert state(repo) == before


def test_removing_never_fails(repo, folder, tmp_path, monkeypatch):
    remove(tmp_path, folder)
    remove(repo, folder)
    make_checkouts(repo, "before", folder)
    monkeypatch.setenv("PATH", "")
    remove(repo, folder)


def test_a_folder_that_is_not_ours_stays(repo, folder):
    write(folder, {"sides/base/mine.py": "1"})
    with pytest.raises(GateError, match=r"no gate made it; give another --run"):
        make_checkouts(repo, "before", folder)
    remove(repo, folder)
    assert files(folder) == {"sides/base/mine.py": "1"}


# The base's own tree


def test_the_whole_base_is_there_while_it_is_needed(repo, folder):
    sides = make_checkouts(repo, "before", folder)
    with whole_base(repo, sides.base, folder) as root:
        assert files(root) == FILES
        assert git(root, "rev-parse", "HEAD") == sides.base.revision
    assert not root.exists()
    assert len(worktrees(repo)) == 3


def test_the_whole_base_goes_after_an_error_and_after_a_cut_off_run(repo, folder):
    sides = make_checkouts(repo, "before", folder)
    with pytest.raises(ZeroDivisionError), whole_base(repo, sides.base, folder):
        raise ZeroDivisionError
    assert len(worktrees(repo)) == 3
    left = whole_base(repo, replace(sides.base, revision=sides.head.revision), folder)
    left.__enter__()  # and no exit: the run was killed
    with whole_base(repo, sides.base, folder) as root:
        assert files(root) == FILES
    assert len(worktrees(repo)) == 3


def test_whether_two_commits_differ_in_some_paths(repo):
    assert differs(repo, "before", "HEAD", "bench")
    assert differs(repo, "before", "HEAD", "bench/bench_a.py", "pyproject.toml")
    assert not differs(repo / "bench", "before", "HEAD", "pyproject.toml", "no/such/path")
    with pytest.raises(GateError, match="can't compare before with nothing"):
        differs(repo, "before", "nothing", "bench")


def test_a_file_of_the_base_can_be_read(repo):
    before = git(repo, "rev-parse", "before")
    assert text_at(repo, before, "mha/__init__.py") == "VERSION = 1\n"
    with pytest.raises(GateError, match=rf"^{before[:12]} has no setup.py, which the gate needs"):
        text_at(repo, before, "setup.py")


# What can't be compared


def test_outside_a_repository(tmp_path, folder):
    with pytest.raises(GateError, match=r"is not in a git checkout[^$]*run it in a clone"):
        make_checkouts(tmp_path, "before", folder)
    with pytest.raises(GateError, match=r"nowhere is not in a git checkout"):
        make_checkouts(tmp_path / "nowhere", "before", folder)


def test_without_git(repo, folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GateError, match="git is not installed, or not on PATH"):
        make_checkouts(repo, "before", folder)


def test_without_a_commit(tmp_path, folder):
    git(tmp_path, "init", "-q")
    with pytest.raises(GateError, match=r"has no commit yet.*: commit first"):
        make_checkouts(tmp_path, "HEAD", folder)


@pytest.mark.parametrize("label", ["nothing", "", "--all", "^HEAD", "0" * 40, "HEAD:mha"])
def test_a_base_that_is_not_there(repo, folder, label):
    with pytest.raises(GateError, match=rf"^--base {re.escape(label)}: .* no such commit.*\nThis clone has no remote"):
        make_checkouts(repo, label, folder)
    assert not folder.exists()


def test_a_base_that_is_misspelt(repo, folder):
    with pytest.raises(GateError, match=r"did you mean before\?"):
        make_checkouts(repo, "befor", folder)


@pytest.mark.parametrize("shallow", [True, False], ids=["shallow", "one branch"])
def test_a_base_to_be_fetched_is_there_after_the_command_that_the_error_gives(repo, folder, tmp_path, shallow):
    git(repo, "branch", "topic")
    git(repo, "branch", "-f", "stable", "before")
    depth = ("--depth", "1") if shallow else ()
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--single-branch", "-b", "topic", *depth, repo.as_uri(), str(clone))
    with pytest.raises(GateError, match="has no such commit") as caught:
        make_checkouts(clone, "origin/stable", folder)
    assert ("--unshallow" in str(caught.value), "fetch-depth: 0" in str(caught.value)) == (shallow, shallow)
    (command,) = re.findall("`git (fetch.+?)`", str(caught.value))
    git(clone, *command.split())
    assert files(make_checkouts(clone, "origin/stable", folder).base.root)["mha/old.py"] == ""


def test_a_commit_to_be_fetched_is_there_after_the_command_that_the_error_gives(repo, folder, tmp_path):
    before, clone = git(repo, "rev-parse", "before"), tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", repo.as_uri(), str(clone))
    with pytest.raises(GateError, match="shallow clone") as caught:
        make_checkouts(clone, before, folder)
    (command,) = re.findall("`git (fetch.+?)`", str(caught.value))
    git(clone, *command.split())
    assert make_checkouts(clone, before, folder).base.revision == before


@pytest.mark.parametrize("side", ["base", "head"])
def test_a_side_without_the_library(repo, folder, side):
    git(repo, "rm", "-rq", "mha")
    write(repo, {"mha": "a file"})
    without = commit(repo, {})
    base, label = (without[:9], without[:9]) if side == "base" else ("before", "HEAD")
    if side == "base":
        git(repo, "checkout", "-q", "before")
    with pytest.raises(GateError, match=rf"^{label} \({without[:12]}\) has no folder mha/"):
        make_checkouts(repo, base, folder)
    assert not folder.exists()


def test_conflicts(repo, folder):
    git(repo, "checkout", "-qb", "other", "before")
    commit(repo, {"docs/a.md": "three\n"})
    with pytest.raises(subprocess.CalledProcessError):
        git(repo, "merge", "main")
    with pytest.raises(GateError, match=r"has conflicts in docs/a.md: resolve them"):
        make_checkouts(repo, "before", folder)


def test_where_git_can_not_write(repo, folder):
    (repo / ".git" / "worktrees").write_text("in the way")
    with pytest.raises(GateError, match=r"can't be checked out at .*sides/base: [^$]*go on by the same command"):
        make_checkouts(repo, "before", folder)


def test_where_the_folder_can_not_be_made(repo, folder):
    folder.write_text("in the way")
    with pytest.raises(GateError, match=r"sides can't be made \(.+\); mend that, or give another --run"):
        make_checkouts(repo, "before", folder)


def test_the_repository_is_no_folder_for_a_run(repo):
    for path in (repo, repo.parent):
        with pytest.raises(GateError, match="holds the repository itself"):
            make_checkouts(repo, "before", path)


# Environments

PROJECT = '[project]\nrequires-python = ">=3.11"\ndependencies = ["b>=1", "a"]\n'


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "constraints.txt"
    path.write_text("a==1\n")
    return path


class Builder:
    """Makes environments of one link each, and keeps what it was asked for."""

    def __init__(self, seconds=0.0, error=None):
        self.asked, self.seconds, self.error = [], seconds, error

    def __call__(self, folder, executable, requirements, lock):
        self.asked.append((list(requirements), lock))
        (folder / "bin").mkdir(parents=True)
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        (folder / "bin" / "python").symlink_to(executable)


def test_sides_that_declare_the_same_share_an_environment(tmp_path, lock):
    build, said = Builder(), []
    options = {"cache": tmp_path / "cache", "build": build, "say": said.append}
    one = environment(PROJECT, lock, name="base", **options)
    assert environment(PROJECT.replace('"b>=1", "a"', '"a", "b>=1"'), lock, name="head", **options) == one
    assert one.parent.parent.parent == tmp_path / "cache"
    assert build.asked == [(["b>=1", "a"], lock)]
    assert [sentence.partition(" in ")[0] for sentence in said] == ["building the environment of the base"]
    assert facts(one)["python"] == platform.python_version()


def test_what_the_extra_bench_asks_for_is_installed_too(tmp_path, lock):
    build = Builder()
    pyproject = PROJECT + '[project.optional-dependencies]\nbench = ["pytest"]\nplot = ["matplotlib"]\n'
    environment(pyproject, lock, cache=tmp_path, build=build)
    assert [sorted(requirements) for requirements, _ in build.asked] == [["a", "b>=1", "pytest"]]


def test_other_requirements_or_other_pins_make_another_environment(tmp_path, lock):
    build = Builder()
    paths = [environment(PROJECT, lock, cache=tmp_path, build=build)]
    paths.append(environment(PROJECT.replace("b>=1", "b>=2"), lock, cache=tmp_path, build=build))
    lock.write_text("a==2\n")
    paths.append(environment(PROJECT, lock, cache=tmp_path, build=build))
    assert len(set(paths)) == len(build.asked) == 3


@pytest.mark.parametrize("stopped", [KeyboardInterrupt(), GateError("no such package")], ids=["interrupted", "failed"])
def test_what_was_not_finished_is_built_again(tmp_path, lock, stopped):
    with pytest.raises((KeyboardInterrupt, GateError)):
        environment(PROJECT, lock, cache=tmp_path, build=Builder(error=stopped))
    build = Builder()
    python = environment(PROJECT, lock, cache=tmp_path, build=build)
    assert python.exists()
    assert len(build.asked) == 1


def test_an_environment_whose_interpreter_is_gone_is_built_again(tmp_path, lock):
    build = Builder()
    python = environment(PROJECT, lock, cache=tmp_path, build=build)
    python.unlink()
    assert environment(PROJECT, lock, cache=tmp_path, build=build).exists()
    assert len(build.asked) == 2


def test_two_that_want_the_same_environment_build_it_once(tmp_path, lock):
    build, found = Builder(seconds=0.3), []
    ask = lambda: found.append(environment(PROJECT, lock, cache=tmp_path, build=build))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(build.asked) == 1
    assert len(found) == 2


def test_environments_are_kept_where_the_models_are(tmp_path, monkeypatch):
    assert environments.CACHE == bench.tasks._training.CACHE
    monkeypatch.setenv(environments.CACHE, str(tmp_path))
    assert environments.cache_directory() == bench.tasks._training.cache_directory() / "gate"
    monkeypatch.delenv(environments.CACHE)
    assert environments.cache_directory() == bench.tasks._training.cache_directory().parent / "gate"


def test_a_failed_build_says_why_and_leaves_nothing(tmp_path, lock):
    build = Builder(error=GateError("ERROR: No matching distribution found for b"))
    expected = r"^The head can't be built: .*\nERROR: No matching distribution found for b\nMend what"
    with pytest.raises(GateError, match=expected):
        environment(PROJECT, lock, name="head", cache=tmp_path / "cache", build=build)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] in ([], [".lock"])


@pytest.mark.parametrize(
    ("pyproject", "expected"),
    [
        ("[project]\nname = 'a'\n", "of the base has no `dependencies` under"),
        ("", "of the base has no `dependencies` under"),
        ("[project", "of the base is no TOML: Expected .*Mend it"),
        (
            "[project]\ndependencies = []\nrequires-python = '<3.11'",
            r"made for Python <3.11 .* is 3\..*; give --python",
        ),
        (
            "[project]\ndependencies = []\nrequires-python = 'new'",
            "`requires-python` of the base can't be read: .*'new'",
        ),
    ],
    ids=["no dependencies", "empty", "no TOML", "another Python", "nonsense"],
)
def test_a_project_that_can_not_be_built(tmp_path, lock, pyproject, expected):
    with pytest.raises(GateError, match=expected):
        environment(pyproject, lock, cache=tmp_path, build=Builder())


def test_a_lock_that_is_not_there(tmp_path):
    with pytest.raises(GateError, match=r"constraints.txt can't be read .*No such file"):
        environment(PROJECT, tmp_path / "constraints.txt", cache=tmp_path, build=Builder())


def test_a_cache_that_can_not_be_written(lock):
    with pytest.raises(GateError, match=r"of the base can't be kept in .*set MHA_BENCH_CACHE to a folder with room"):
        environment(PROJECT, lock, cache=lock / "cache", build=Builder())


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (None, "There is no interpreter .*; give --python the path of a Python ≥ 3.11"),
        ("exit 3", r"is no Python that the gate can use \(exit code 3\); give --python"),
        ("echo hello", r"is no Python that the gate can use \(.+\); give --python"),
        ("""echo '{"version": [3, 10, 2], "python": "3.10.2"}'""", "is Python 3.10.2; give --python .* Python ≥ 3.11"),
    ],
    ids=["missing", "fails", "another program", "too old"],
)
def test_an_interpreter_that_is_none(tmp_path, lock, script, expected):
    python = tmp_path / "python"
    if script:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    with pytest.raises(GateError, match=expected):
        environment(PROJECT, lock, python=python, cache=tmp_path / "cache", build=Builder())
    with pytest.raises(GateError, match=expected):
        facts(python)


def test_facts_are_those_of_the_interpreter():
    found = facts(sys.executable)
    assert found["python"] == platform.python_version()
    assert found["implementation"] == platform.python_implementation()
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["packages"]["numpy"] == np.__version__
    assert "pytest-benchmark" in found["packages"]


def test_interpreters_that_differ_are_refused_and_packages_noted():
    side = {"python": "3.11.7", "implementation": "CPython", "packages": {"torch": "2.13.0", "numpy": "2.0"}}
    assert compared(side, side) is None
    other = {**side, "packages": {"torch": "2.11.0", "numpy": "2.0", "einops": "0.8"}}
    note = compared(other, side)
    assert "torch 2.11.0 in the base, 2.13.0 in the head" in note
    assert "einops 0.8 in the base, missing in the head" in note
    assert "numpy" not in note
    message = r"base runs on CPython 3.11.7, the head on CPython 3.12.1: .* Give both the same by --python"
    with pytest.raises(GateError, match=message):
        compared(side, {**side, "python": "3.12.1"})


def wheel(path, name, version, *needs):
    """A package of one module, as pip takes it from a file."""
    record = f"{name}-{version}.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {need}" for need in needs),
    ]
    with zipfile.ZipFile(path / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{record}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(
            f"{record}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{record}/RECORD", "")


def venv_with_our_pip(folder, executable, requirements, lock):
    """As `venv_with_pip`, but pip is that of the tests: installing it anew would take most of the time."""
    pip = Path(pytest.importorskip("pip").__file__).parent
    subprocess.run([executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.rglob("site-packages")
    (packages / "pip").symlink_to(pip)
    environments.pip(folder / "bin" / "python", requirements, lock)


def test_pip_installs_at_the_pins_and_says_what_fails(tmp_path, monkeypatch):
    for version in ("1.0", "2.0"):
        wheel(tmp_path, "planted", version)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    lock = tmp_path / "constraints.txt"
    lock.write_text("planted==1.0\n")
    options = {"cache": tmp_path / "a räal cache", "build": venv_with_our_pip}
    python = environment('[project]\ndependencies = ["planted"]\n', lock, **options)
    assert facts(python)["packages"] == {"planted": "1.0"}
    assert not list(python.parent.parent.rglob("planted*.pyc"))
    with pytest.raises(GateError, match=r"(?s)^The base can't be built: .*requested \(constraint\) planted==1.0"):
        environment('[project]\ndependencies = ["planted>=2"]\n', lock, **options)
