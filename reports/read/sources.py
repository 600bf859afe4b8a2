"""Reads what a report is made from: paths of runs -> runs by kind, and what could not be read, with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reports.base.errors import ReportError
from reports.base.formatting import count
from reports.read import importance_run as importance
from reports.read import runtimes_run as runtimes
from reports.read.archive import opened
from reports.read.environment import FILE
from reports.read.files import read_json
from reports.read.load import load
from reports.read.run import Run, name_of


@dataclass(frozen=True, eq=False)
class Importance:
    """A run of the importance experiments: its path as given, its tables, and what its environment.json holds."""

    path: Path
    tables: importance.Tables
    environment: Mapping[str, Any]

    @property
    def name(self) -> str:
        return name_of(self.path)


@dataclass(frozen=True, eq=False)
class Runtimes:
    """A run of bench.runtimes: its path as given, its table, and what its environment.json holds."""

    path: Path
    table: runtimes.Table
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Refused:
    """A run that could not be read at all: its path as it was given, and the reason, a sentence."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class Sources:
    """The runs that a report is made from, by their kind, and those that could not be read."""

    runs: tuple[Run, ...]
    importance: tuple[Importance, ...]
    runtimes: tuple[Runtimes, ...]
    refused: tuple[Refused, ...]


def read(paths: Sequence[Path]) -> Sources:
    """Read run directories, or .zip files of them, of the benchmark or of an experiment that has pages.

    A run that can't be read is listed in `Sources.refused`, and the others are read all the same. A run of the
    regression gate is refused, too: python -m reports.gate draws it.

    Raises:
        ReportError: a run is named twice, none is named, or none could be read; the text then gives the first's reason.
    """
    places = [path.resolve() for path in paths]
    if twice := [path for place, path in enumerate(paths) if places[place] in places[:place]]:
        raise ReportError(f"{twice[0]}: this run is named more than once; name each run once")
    runs, studies, deployed, refused = [], [], [], []
    for path in paths:
        try:
            with opened(path) as directory:
                if (directory / "gate.json").is_file() or (directory / "verdict.json").is_file():
                    raise ReportError(f"{path}: this is a run of the regression gate; python -m reports.gate draws it")
                if (directory / "curves.csv").is_file():
                    studies.append(Importance(path, importance.load(directory), read_json(directory / FILE)))
                elif (directory / runtimes.FILE).is_file():
                    deployed.append(Runtimes(path, runtimes.load(directory), read_json(directory / FILE)))
                else:
                    runs.append(replace(load(directory), path=path))
        except ReportError as error:
            refused.append(Refused(path, str(error)))
    if not runs and not studies and not deployed:
        others = f" ({count(len(refused) - 1, 'other')} could not be read, either)" if len(refused) > 1 else ""
        raise ReportError(refused[0].reason + others if refused else "no run was named; name at least one")
    return Sources(tuple(runs), tuple(studies), tuple(deployed), tuple(refused))
