"""Run directories as archives."""

import zipfile
from pathlib import Path


def packed(run: Path, target: Path, folder: str = "") -> Path:
    """Pack a run directory, in this folder of the archive."""
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(run.rglob("*")):
            archive.write(file, folder + file.relative_to(run).as_posix())
    return target
