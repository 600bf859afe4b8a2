"""What a task offers of parts, confidences and texts is asked for, checked, and written row by row."""

import numpy as np
import pytest
import torch

import mha
from bench.models.changes import calibration_rows, offers, slice_rows, slices_of, text_rows
from bench.models.experiment import Experiment
from mha.tasks import Task
from tests.bench.tiny_task import TinyTask


class UntrainedTask(TinyTask):
    """The tiny task, without the time to train."""

    steps = 0


@pytest.fixture
def experiment():
    return Experiment(UntrainedTask())


@pytest.fixture
def plan(experiment):
    return experiment.plan("random", 0.5)


class Plain:
    """Offers what it must, and is no Task."""

    name = "plain"


class Inherits(Task):
    pass


def test_what_a_task_offers_is_known_without_asking():
    for method in ("slices", "confidences", "prompts"):
        assert offers(UntrainedTask(), method)
        assert not offers(Plain(), method)
        assert getattr(Inherits, method) is getattr(Task, method)


def test_slices_are_told_with_their_metric(experiment, plan):
    pruned, dense = experiment.values(plan).astype(float), experiment.dense_values().astype(float)
    first = experiment.task.slices()["the first is it"]
    rows = slice_rows(experiment, experiment.values(plan), "a plan")
    assert [row[:4] for row in rows] == [
        ("tiny", "a plan", "the first is it", first.sum()), ("tiny", "a plan", "all", 101),
    ]  # fmt: skip
    assert rows[0][4:7] == pytest.approx((pruned[first].mean(), dense[first].mean(), (pruned - dense)[first].mean()))


@pytest.mark.parametrize("mask", [np.zeros(101), np.zeros(7, dtype=bool), np.zeros((101, 1), dtype=bool)])
def test_a_slice_is_a_mask_of_the_examples(experiment, monkeypatch, mask):
    monkeypatch.setattr(experiment.task, "slices", lambda: {"odd": mask})
    with pytest.raises(ValueError, match=r"slices must give a boolean mask \(101,\).*'odd' is"):
        slices_of(experiment)


def test_confidences_are_told(experiment, plan):
    measures, bins = calibration_rows(experiment, experiment.confidences(experiment.pruned(plan)), "a plan")
    assert [row[:3] for row in measures] == [
        ("tiny", "a plan", measure) for measure in ("calibration error", "overconfidence", "Brier score")
    ]
    assert {row[-1] for row in measures} == {101}
    assert sum(row[3] for row in bins) == 101
    right = sum(row[3] * row[5] for row in bins) / 101
    assert right == pytest.approx(experiment.values(plan).mean())


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros(101), r"must return \(101, 2\) or \(101, k, 2\), .* got \(101,\)"),
        (np.zeros((7, 2)), r"got \(7, 2\)"),
        (np.full((101, 2), np.nan), "NaN or outside"),
        (np.full((101, 2, 2), 1.1), "NaN or outside"),
    ],
)
def test_confidences_that_are_none(experiment, plan, monkeypatch, returned, message):
    monkeypatch.setattr(experiment.task, "confidences", lambda _: returned)
    with pytest.raises(ValueError, match=message):
        experiment.confidences(experiment.pruned(plan))


def test_texts_are_written_by_the_pruned_model(experiment, plan):
    rows = text_rows(experiment.task, experiment.pruned(plan), "a plan", prompts=1, tokens=2)
    read = [1, 2, 3, 4, 5]
    model = experiment.pruned(plan)
    for _ in range(2):
        with torch.inference_mode():
            read.append(int(model(torch.tensor([read[-5:]])).argmax(-1)))
    assert rows == [("tiny", "a plan", 0, "1 2 3 4 5", [f" {token}" for token in read[5:]])]


@pytest.mark.parametrize(("prompts", "pieces"), [(["a"], "text"), (["a"], [1]), ([""], ["b"])])
def test_texts_that_are_none(experiment, plan, monkeypatch, prompts, pieces):
    monkeypatch.setattr(experiment.task, "prompts", lambda: prompts)
    monkeypatch.setattr(experiment.task, "generate", lambda *_: pieces)
    with pytest.raises(ValueError, match="generate must return the text of each token"):
        text_rows(experiment.task, experiment.pruned(plan), "a plan", 10, 3)


def test_a_task_with_prompts_says_how_to_go_on():
    with pytest.raises(NotImplementedError, match=r"task 'tiny' has prompts: write its generate"):
        Task.generate(UntrainedTask(), torch.nn.Identity(), "a", 1)


def test_a_metric_that_is_no_mean_is_told_of_each_example(experiment, plan, monkeypatch):
    assert experiment.accuracy(plan)["alone"] is None
    monkeypatch.setattr(experiment.task, "aggregate", lambda values: float(np.exp(-values.mean())))
    fresh = Experiment(experiment.task)
    told = fresh.accuracy(plan)
    assert told["alone"] == pytest.approx(np.exp(-np.array(told["values"], dtype=float)))


@pytest.mark.parametrize("repair", ["none", "compensate"])
def test_a_small_model_is_given_again_with_its_values(experiment, repair):
    """One that was repaired comes from disk, with the weights by which its values came about."""
    model, values = experiment.small("random", 0.5, repair), experiment.small_values("random", 0.5, repair)
    assert mha.plan_of(model) == experiment.plan("random", 0.5)
    assert not model.training
    np.testing.assert_array_equal(experiment.task.evaluate(model), values)
    outputs, raw = (mha.find_attention(one) for one in (model, experiment.pruned(experiment.plan("random", 0.5))))
    same = [torch.equal(outputs[name].output.weight, raw[name].output.weight) for name in raw]
    assert all(same) == (repair == "none")
