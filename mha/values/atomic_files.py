"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appears_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A context that gives a temporary path, beside `path`, to write the new file to.

    When the context ends, the file there is renamed to `path`; after an error it is removed, and `path` stays as it
    was. Readers of `path` see the old file or the new one, never half. Of two writers at once, the last one wins.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
