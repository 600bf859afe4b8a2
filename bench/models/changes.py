"""What pruning changes beside the mean: parts of the examples, calibration, and the text that a model writes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from bench.measure.calibration import calibration, reliability
from bench.measure.slices import slice_changes
from bench.models.experiment import Experiment
from mha.tasks import Task

Rows = list[tuple[Any, ...]]


def offers(task: Task, method: str) -> bool:
    """Whether a task has an optional method of its own, not only that of `Task`; it is not called."""
    own = getattr(type(task), method, None) or getattr(task, method, None)
    return own is not None and own is not getattr(Task, method)


def slices_of(experiment: Experiment) -> Mapping[str, np.ndarray]:
    """The parts that a task names: name -> mask (n,) of the evaluation examples.

    Raises:
        ValueError: a mask is not boolean, or not of as many examples as `evaluate` returns rows.
    """
    examples = len(experiment.dense_values())
    slices = {str(name): np.asarray(mask) for name, mask in experiment.task.slices().items()}
    for name, mask in slices.items():
        if mask.dtype != bool or mask.shape != (examples,):
            raise ValueError(
                f"task {experiment.task.name!r}: slices must give a boolean mask ({examples},), one for each row that "
                f"evaluate returns; {name!r} is {mask.dtype} {mask.shape}"
            )
    return slices


def slice_rows(experiment: Experiment, values: np.ndarray, name: str) -> Rows:
    """The rows of `slices.csv` of one plan, called `name`, whose model has these values (`Experiment.values`)."""
    found = slice_changes(values, experiment.dense_values(), slices_of(experiment), experiment.task.aggregate)
    return [(experiment.task.name, name, *change) for change in found]


def calibration_rows(experiment: Experiment, found: np.ndarray, name: str) -> tuple[Rows, Rows]:
    """The rows of `calibration.csv` and of `reliability.csv` of one plan, called `name`.

    Args:
        found: how sure the plan's model is (`Experiment.confidences`).
    """
    task, dense, answers = experiment.task.name, experiment.dense_confidences(), found[..., 0].size
    measures = [(task, name, what, *value, *change, answers) for what, value, change in calibration(found, dense)]
    return measures, [(task, name, place, *each) for place, each in enumerate(reliability(found))]


def text_rows(task: Task, model: nn.Module, name: str, prompts: int, tokens: int) -> Rows:
    """The rows of `texts.csv` of one plan, called `name`: how its model goes on from the task's first prompts.

    It goes on greedily, for so many tokens at most.

    Raises:
        ValueError: a prompt is empty, or what is written for it is no sequence of texts.
    """
    rows: Rows = []
    for number, prompt in enumerate(list(task.prompts())[:prompts]):
        pieces = task.generate(model, prompt, tokens) if prompt else None
        if pieces is None or isinstance(pieces, str) or not all(isinstance(piece, str) for piece in pieces):
            raise ValueError(
                f"task {task.name!r}: generate must return the text of each token, a list of str, for a prompt that is "
                f"not empty; for {prompt!r:.60} it returned {pieces!r:.60}"
            )
        rows.append((task.name, name, number, prompt, list(pieces)))
    return rows
