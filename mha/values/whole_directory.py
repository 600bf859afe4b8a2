"""A directory that appears whole or not at all, and never in the place of something else."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mha.values.errors import CheckpointError


def check_free(directory: Path) -> None:
    """Refuse a place that something is in already, or whose parent is no directory that can be written to.

    Raises:
        CheckpointError: it says what is there.
    """
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise CheckpointError(f"{directory} is a file; give a directory that is empty or does not exist yet")
    if directory.is_dir() and (held := sorted(path.name for path in directory.iterdir())):
        more = ", …" if len(held) > 4 else ""
        raise CheckpointError(
            f"{directory} exists and holds {', '.join(held[:4])}{more}; give another directory (nothing is deleted)"
        )
    above = next(parent for parent in directory.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise CheckpointError(f"{directory} can't be made: {above} is no directory that may be written to")


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A context that gives a new directory, beside this one, to fill; when it ends, that one gets this name.

    After an error, or an interruption, it is removed, and nothing is left.

    Raises:
        CheckpointError: there is something in the directory, or the system can't write (as to a full disk).
    """
    check_free(directory)
    partial = directory.absolute().with_name(f".{directory.absolute().name}.{os.urandom(4).hex()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        check_free(directory)
        os.replace(partial, directory)
    except OSError as error:
        raise CheckpointError(f"{directory} can't be written ({error}); nothing was left of it") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_new(path: Path | None) -> None:
    """Refuse a file that is there already.

    Raises:
        CheckpointError: it is.
    """
    if path is not None and path.exists():
        raise CheckpointError(f"{path} exists; give another name (nothing is overwritten)")
