"""What several cases of a sweep share, made once: a task's model, the dense model's values, scores, repaired models.

It is run like a case, and what it makes is put on the shelf (`bench.models.shelf`), from where it is sent to whoever
needs it.
"""

import shutil
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bench.cluster.child import ASKED
from bench.models.experiment import MEASURED, Experiment
from bench.models.shelf import SHELF, Shelf
from bench.tasks import _training

Asked = Mapping[str, Any]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    asked = metafunc.config.stash[ASKED]
    name = "-".join(map(str, (asked["task"], asked["what"], *asked["of"])))
    metafunc.parametrize("asked", [asked], ids=[name])


def test_make(asked: Asked, experiments: Mapping[str, Experiment], pytestconfig: pytest.Config) -> None:
    """Make what is asked for, of a task, and put it on the shelf."""
    MAKERS[asked["what"]](experiments[asked["task"]], pytestconfig, *asked["of"])


def _model(experiment: Experiment, config: pytest.Config) -> None:
    """The trained model; on the shelf are the files that training it has left, so that it is not trained again."""
    experiment.layers()
    folder = _shelf(config).models
    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    for path in _training.USED:
        shutil.copyfile(path, folder / path.name)


def _dense(experiment: Experiment, config: pytest.Config) -> None:
    _shelf(config).keep_dense_values(experiment.task.name, experiment.dense_values())


def _scores(experiment: Experiment, config: pytest.Config, criterion: str) -> None:
    _shelf(config).keep_scores(experiment.task.name, criterion, *experiment.scores(criterion))


def _repaired(experiment: Experiment, config: pytest.Config, criterion: str, keep: float, repair: str) -> None:
    made = experiment.repaired(criterion, keep, repair)
    about = {"keep": {name: list(heads) for name, heads in made.plan.keep.items()}}
    about |= {name: getattr(made, name) for name in MEASURED}
    model = experiment.small(criterion, keep, repair)
    _shelf(config).keep_repaired(experiment.task.name, (criterion, keep, repair), model, made.values, about)


def _shelf(config: pytest.Config) -> Shelf:
    return config.stash[SHELF]


MAKERS: Mapping[str, Callable[..., None]] = {"model": _model, "dense": _dense, "scores": _scores, "repaired": _repaired}
