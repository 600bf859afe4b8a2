"""What several cases of a sweep need and only one process makes: a model, the dense model's values, scores, repairs.

Each process of a sweep has such a folder. What is in it is read; what is not is made anew, as in a run on one machine.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mha
from bench.measure.files import write_json
from mha.values.atomic_files import appears_whole

MODELS = "models"  # of the folder: what `bench.tasks._training.trained` keeps


class Shelf:
    """A folder of things that are made once; with None as the folder nothing is there, and nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @property
    def models(self) -> Path | None:
        """The folder of trained models, in which `bench.tasks._training` may look for them."""
        return None if self._folder is None else self._folder / MODELS

    def scores(self, task: str, criterion: str) -> tuple[mha.HeadScores, float] | None:
        """The scores of a task's heads by a criterion, at seed 0, and the seconds of scoring; None if not there."""
        if (path := self._there(task, f"scores-{criterion}", "about.json")) is None:
            return None
        return mha.HeadScores.from_json(path.with_name("scores.json")), json.loads(path.read_text())["seconds"]

    def keep_scores(self, task: str, criterion: str, scores: mha.HeadScores, seconds: float) -> None:
        """Put scores where `scores` finds them."""
        if folder := self._room(task, f"scores-{criterion}"):
            scores.to_json(folder / "scores.json")
            write_json(folder / "about.json", {"seconds": seconds})

    def dense_values(self, task: str) -> np.ndarray | None:
        """What the task's `evaluate` returned of the dense model, (n,) or (n, k); None if not there."""
        path = self._there(task, "dense", "values.npy")
        return None if path is None else np.load(path, allow_pickle=False)

    def keep_dense_values(self, task: str, values: np.ndarray) -> None:
        """Put values where `dense_values` finds them."""
        if folder := self._room(task, "dense"):
            _save(folder / "values.npy", values)

    def repaired(self, task: str, name: Sequence[Any]) -> tuple[Path, np.ndarray, dict[str, Any]] | None:
        """The checkpoint of a repaired model, the values of its examples, and facts about it; None if not there.

        Args:
            name: criterion, kept fraction and repair.
        """
        if (path := self._there(task, _repair(name), "about.json")) is None:
            return None
        values = np.load(path.with_name("values.npy"), allow_pickle=False)
        return path.with_name("model"), values, json.loads(path.read_text())

    def keep_repaired(self, task: str, name: Sequence[Any], model: Any, values: np.ndarray, about: Any) -> None:
        """Put a repaired model where `repaired` finds it."""
        if folder := self._room(task, _repair(name)):
            mha.save_pruned(model, folder / "model")
            _save(folder / "values.npy", values)
            write_json(folder / "about.json", about)

    def _there(self, task: str, name: str, file: str) -> Path | None:
        """The path of a file, if it is there; it is the last that is written of its folder."""
        path = None if self._folder is None else self._folder / task / name / file
        return path if path is not None and path.is_file() else None

    def _room(self, task: str, name: str) -> Path | None:
        """The folder of this name, made if need be; None where nothing is kept."""
        if self._folder is None:
            return None
        (folder := self._folder / task / name).mkdir(parents=True, exist_ok=True)
        return folder


SHELF = pytest.StashKey[Shelf]()  # of pytest's configuration, in a process of a sweep
NO_SHELF = Shelf(None)


def _repair(name: Sequence[Any]) -> str:
    criterion, keep, repair = name
    return f"repaired-{criterion}-{keep!r}-{repair}"


def _save(path: Path, values: np.ndarray) -> None:
    with appears_whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)
