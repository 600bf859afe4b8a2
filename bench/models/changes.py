"""What pruning changes beside the mean: parts of the examples, calibration, and the text that a model writes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import mha
from bench.measure.calibration import calibration, reliability
from bench.measure.slices import slice_changes
from bench.models.experiment import DENSE, Experiment
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


def slice_rows(experiment: Experiment, plan: mha.HeadPlan, name: str) -> Rows:
    """The rows of `slices.csv` of one plan, called `name`."""
    values, dense = experiment.values(plan), experiment.dense_values()
    found = slice_changes(values, dense, slices_of(experiment), experiment.task.aggregate)
    return [(experiment.task.name, name, *change) for change in found]


def calibration_rows(experiment: Experiment, plan: mha.HeadPlan, name: str) -> tuple[Rows, Rows]:
    """The rows of `calibration.csv` and of `reliability.csv` of one plan, called `name`.

    Raises:
        ValueError: `confidences` returns another shape, or numbers that are none of probabilities.
    """
    task = experiment.task.name
    pruned, dense = (confidences(experiment, each) for each in (plan, experiment.plan(DENSE, 1.0)))
    answers = pruned[..., 0].size
    measures = [(task, name, what, *value, *change, answers) for what, value, change in calibration(pruned, dense)]
    return measures, [(task, name, place, *each) for place, each in enumerate(reliability(pruned))]


def confidences(experiment: Experiment, plan: mha.HeadPlan) -> np.ndarray:
    """How sure a plan's pruned model is of each answer, and whether that is right: (n, k, 2).

    Raises:
        ValueError: the task returns another shape, or numbers outside 0 … 1.
    """
    returned = np.asarray(experiment.task.confidences(experiment.pruned(plan)), dtype=float)
    examples = len(experiment.dense_values())
    if returned.ndim not in (2, 3) or len(returned) != examples or returned.shape[-1] != 2:
        raise ValueError(
            f"task {experiment.task.name!r}: confidences must return ({examples}, 2) or ({examples}, k, 2), for each "
            f"answer its probability and whether it is right, got {returned.shape}"
        )
    if not ((returned >= 0) & (returned <= 1)).all():
        raise ValueError(f"task {experiment.task.name!r}: confidences returned numbers that are NaN or outside 0 … 1")
    return returned.reshape(examples, -1, 2)


def text_rows(experiment: Experiment, plan: mha.HeadPlan, name: str, prompts: int, tokens: int) -> Rows:
    """The rows of `texts.csv` of one plan: the greedy continuation of the task's first prompts, of so many tokens.

    Raises:
        ValueError: a prompt is empty, or what is written for it is no sequence of texts.
    """
    task, model = experiment.task, experiment.pruned(plan)
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
