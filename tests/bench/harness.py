"""How `pytest bench` is run by tests, and what a run leaves."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

TINY = "tests/bench/tiny_task.py:task"


def arguments(directory, *options):
    """What pytest is told for a quick run into this directory."""
    return [
        "bench",
        "--quick",
        f"--run={directory}",
        *("-p", "no:cacheprovider"),
        *("-W", "error"),  # what the project's own code warns of is an error
        *options,
    ]


def command(directory, *options):
    """The same as a command line, for a process that imports everything."""
    return [sys.executable, "-m", "pytest", *arguments(directory, *options)]


@dataclass
class Run:
    """A run directory, and what the terminal said."""

    path: Path
    code: int
    output: str

    def json(self, name):
        return json.loads((self.path / name).read_text())

    def records(self, folder):
        return {path.stem: json.loads(path.read_text()) for path in (self.path / folder).iterdir()}
