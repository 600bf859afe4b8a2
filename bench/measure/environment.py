"""What a run was measured on: machine, versions, revision."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import cpuinfo
import torch

import mha

PACKAGES = (
    *("torch", "numpy", "einops", "pandas", "pytest", "pytest-benchmark", "scikit-learn", "scipy"),
    *("transformers", "torch-pruning"),  # they are timed
)
SOURCES = ("*.py", "*.toml")
SUITE = "_suite"  # in `mha`, as it is installed from a wheel, the folder that has bench/ and reports/
IDENTITY = ("revision", "code", "cpu", "accelerators", "cores", "threads", "governor", "python", "packages")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def environment(command: str) -> dict[str, Any]:
    """Facts about this machine and checkout on which times depend, by name; a fact is None where it can't be found out.

    Args:
        command: what the run was started with, as one would type it.
    """
    here = Path(__file__).parents[1]  # bench/
    revision, dirty = _revision(here)
    known = {
        "command": command,
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "governor": GOVERNOR.read_text().strip() if GOVERNOR.exists() else None,
        "memory_bytes": _memory_bytes(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "accelerators": _accelerators(),
        "revision": revision,
        "dirty": dirty,
        "code": code(),
    }
    return {**known, "fingerprint": fingerprint(known)}


@cache
def cpu() -> str | None:
    """The model of the CPU; None where the system does not say. Found once, since that takes a second."""
    return cpuinfo.get_cpu_info().get("brand_raw") or platform.processor() or None


def code() -> str:
    """A hash of the source files of `mha` and `bench`."""
    folders = (Path(mha.__file__).parent, Path(__file__).parents[1])
    return digest(path for folder in folders for path in _sources(folder))


def fingerprint(known: Mapping[str, Any]) -> str:
    """A hash (16 hex digits) of the facts in `IDENTITY`, which must be the same in all parts of a run."""
    identity = json.dumps({name: known[name] for name in IDENTITY}, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def digest(paths: Iterable[Path]) -> str:
    """A SHA-256 of the names (without folders) and contents of files, in the order given, as hex text."""
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return hashed.hexdigest()


def _sources(folder: Path) -> list[Path]:
    """The files of a package that are hashed, in order: those of a wheel are those of the checkout it was built in."""
    found = (path for pattern in SOURCES for path in folder.rglob(pattern))
    return sorted(path for path in found if folder / SUITE not in path.parents)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on every system
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _accelerators() -> dict[str, str]:
    """Name of each accelerator's device, as `--devices` takes it -> its model, as torch names it; {} without one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return {}
    module, count = torch.get_device_module(accelerator), torch.accelerator.device_count()
    name = getattr(module, "get_device_name", lambda index: accelerator.type)  # noqa: ARG005
    kind = accelerator.type
    return {kind if count == 1 else f"{kind}:{index}": str(name(index)) for index in range(count)}


def _revision(directory: Path) -> tuple[str | None, bool | None]:
    """Hash of the commit that is checked out, and whether git sees files that differ; both None outside a checkout.

    A folder that git finds a repository around is no checkout if its files are not in that: it may be installed there.
    """
    try:
        _git(directory, "ls-files", "--error-unmatch", "__init__.py")
        revision = _git(directory, "rev-parse", "HEAD")
        return revision, bool(_git(directory, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
