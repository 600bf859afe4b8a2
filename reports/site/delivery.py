"""Moves finished files to their places in a directory, which may hold a reader's own files as well.

A list in the directory names what this program wrote there, with hashes of the contents. Nothing else is ever written
over or taken away, and no link is followed, neither to a file nor through a folder.
"""

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath

from reports.base.errors import ReportError
from reports.read.files import read_json
from reports.read.intake import kind_of

FORMAT = "files of a report, with SHA-256 of what was written"
FIGURES = "figure-files.json"  # the list of figures that were drawn one by one, beside what they are of
OLD = "files.txt"  # reports of earlier versions listed their files here, without hashes
ELSEWHERE = "move it, or give another directory with -o"
Claims = Mapping[str, Set[str]]  # path from the directory -> hashes of what was written there


@dataclass(frozen=True)
class Delivery:
    """Brings files into a directory, and keeps a list of those that it brought.

    Attributes:
        output: the directory.
        manifest: the name of the file in it that is the list.
        spared: resolved paths that are neither written over nor removed, even if the list names them; they stay on it.
    """

    output: Path
    manifest: str
    spared: Collection[Path] = ()

    @cached_property
    def claims(self) -> Claims:
        """What of the list in `output` may be written over or removed: all but what is `spared`, or the list itself."""
        return {name: hashes for name, hashes in self._listed.items() if self._may_change(name)}

    @cached_property
    def _listed(self) -> Claims:
        """The list in `output`: path of each file -> hashes of its contents as written here; empty if there is no list.

        Entries that lead out of the directory are left out.

        Raises:
            ReportError: the file with the list's name can't be read, or is no such list.
        """
        self._check_folders(self.manifest)
        file = self.output / self.manifest
        if _mode(file) is None:
            return {}
        document = read_json(file)
        names = document.get("files")
        if document.get("format") != FORMAT or not isinstance(names, dict):
            raise ReportError(f"{file}: expected the list that a report keeps of its files, found another; {ELSEWHERE}")
        return {
            name: {hash_ for hash_ in hashes if isinstance(hash_, str)}
            for name, hashes in names.items()
            if isinstance(hashes, list) and _stays_inside(name)
        }

    def check(self, names: Iterable[str], folders: Iterable[str] = ()) -> None:
        """Check, before any file is made, that nothing in `output` is in the way of a delivery.

        Args:
            names: the paths, from `output`, of files that are going to be delivered.
            folders: the names of folders in `output` in which others are going to be.

        Raises:
            ReportError: where a file or the list is going to be, there is a link, a folder, or a file that this program
                did not write or that was changed since; or where a folder is going to be, there is something else.
        """
        for name in (*names, self.manifest):
            self._check(name)
        for folder in folders:
            self._check_folders(f"{folder}/any")

    def bring(self, made: Path, *, last: str = "", adds: bool = False) -> None:
        """Rename all files in `made` to the same paths in `output` and list them; remove listed files not in `made`.

        If this is cut off, the next call completes it: until all files are in place, the list has both their old and
        their new hashes. A file that is there unlisted, and has the new contents already, stays unlisted. A listed file
        that was changed since is not removed.

        Args:
            made: a folder whose parent is a place for temporary files on the same file system.
            last: the name of the file that is renamed after all others.
            adds: whether listed files that `made` lacks stay, and stay listed.

        Raises:
            ReportError: something is in the way (see `check`); nothing has been written then, unless it appeared late.
        """
        new = {path.relative_to(made).as_posix(): _hash(path) for path in sorted(made.rglob("*")) if path.is_file()}
        for name, content in new.items():
            self._check(name, content)
        before = self.claims
        own = {name: {content} for name, content in new.items() if name in before or _mode(self.output / name) is None}
        if not before and not own:
            return
        self._list(made, {name: {*before.get(name, ()), *own.get(name, ())} for name in {**before, **own}})
        for name in sorted(own, key=lambda name: name == last):
            self._check(name, new[name])
            (self.output / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(made / name, self.output / name)
        for name in () if adds else before.keys() - new.keys():
            self._take_away(name)
        self._list(made, {**before, **own} if adds else own)

    def _check(self, name: str, content: str = "") -> None:
        """Check that nothing in `output` is in the way of the file `name`.

        Args:
            name: its path from `output`.
            content: a hash that a file which is there may have besides its listed ones.

        Raises:
            ReportError: one of its folders is no folder, it is no regular file, or it has none of these hashes.
        """
        self._check_folders(name)
        file, claims = self.output / name, self.claims
        mode = _mode(file)
        if mode is None or name == self.manifest:
            return
        if not stat.S_ISREG(mode):
            raise ReportError(f"{file}: a {kind_of(mode)} is in the way of the report; {ELSEWHERE}")
        if _hash(file) in {content, *claims.get(name, ())}:
            return
        raise ReportError(
            f"{file}: no report wrote this file, or it was changed since, and nothing is written over it; {ELSEWHERE}"
            f"{self._hint()}"
        )

    def _check_folders(self, name: str) -> None:
        for parent in [*Path(name).parents][-2::-1]:
            mode = _mode(self.output / parent)
            if mode is not None and not stat.S_ISDIR(mode):
                raise ReportError(f"{self.output / parent}: a {kind_of(mode)} is in the way of the report; {ELSEWHERE}")

    def _hint(self) -> str:
        old = self.output / OLD
        if self.claims or not old.is_file():
            return ""
        return f". {old} tells of a report of an earlier version, which kept no hashes: delete that, and draw again"

    def _may_change(self, name: str) -> bool:
        return name != self.manifest and (self.output / name).resolve() not in self.spared

    def _list(self, made: Path, claims: Claims) -> None:
        spared = {name: hashes for name, hashes in self._listed.items() if not self._may_change(name)}
        every = {**claims, **spared}
        every.pop(self.manifest, None)
        document = {"format": FORMAT, "files": {name: sorted(every[name]) for name in sorted(every)}}
        file = made.parent / self.manifest
        file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(file, self.output / self.manifest)

    def _take_away(self, name: str) -> None:
        """Remove the file `name` if it is still as this program wrote it, and then its folders that are empty."""
        try:
            self._check(name)
        except ReportError:  # it has become a reader's own
            return
        (self.output / name).unlink(missing_ok=True)
        for parent in [*Path(name).parents][:-1]:
            folder = self.output / parent
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _stays_inside(name: str) -> bool:
    place = PureWindowsPath(name)  # takes / and \ for separators, and knows drives
    return not (place.drive or place.root or ".." in place.parts or not place.parts or "\\" in name)


def _mode(file: Path) -> int | None:
    """The st_mode of what stands at this path (of a link itself, not of its target); None if nothing does."""
    try:
        return file.lstat().st_mode
    except FileNotFoundError:
        return None


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
