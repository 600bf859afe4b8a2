"""What a wheel holds beside `mha`: the benchmark suite, for `mha bench` where there is no checkout."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SUITE = "mha/_suite"  # laid out as a checkout; no package named `bench` or `reports` gets among those of others
PARTS = ("bench", "reports", "conftest.py", "pyproject.toml")  # the last has pytest's settings
LEFT_OUT = "reports/published/"  # 21 MB


class SuiteHook(BuildHookInterface[Any]):
    """Adds the suite to a wheel; not to an editable installation, which has the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            root = Path(self.root)
            for path in (path for part in PARTS for path in files(root / part)):
                place = path.relative_to(root).as_posix()
                if not place.startswith(LEFT_OUT):
                    build_data["force_include"][str(path)] = f"{SUITE}/{place}"


def files(path: Path) -> list[Path]:
    """The path if it is a file, else all files below it, in order, less what Python compiled."""
    if path.is_file():
        return [path]
    return sorted(below for below in path.rglob("*") if below.is_file() and "__pycache__" not in below.parts)
