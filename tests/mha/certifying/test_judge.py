"""Judges: values in order, read off batches or a task; and what they refuse."""

import numpy as np
import pytest
import torch
from torch import nn

import mha
from mha import CertificateError
from mha.certifying.judge import metric_of
from tests.bench.tiny_task import TinyTask


def means(model, batch):
    return model(batch).mean(1)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(size, 3, generator=generator) for size in (5, 2)]


def test_values_of_all_batches_come_in_order_from_a_model_in_eval_mode(batches):
    model = nn.Sequential(nn.Linear(3, 7), nn.Dropout(0.5)).train()
    values = mha.Judge(batches, means)(model)
    expected = model[0](torch.cat(batches)).mean(1)
    assert values.dtype == np.float64
    assert values == pytest.approx(expected.detach().numpy(), rel=1e-6)
    assert model.training


def test_half_precision_and_statistics_are_read(batches):
    def statistics(_, batch):
        return torch.stack([batch.sum(1), batch.new_full((len(batch),), 3.0)], 1).bfloat16()

    judge = mha.Judge(batches, statistics, aggregate=lambda values: values[:, 0].sum() / values[:, 1].sum())
    assert judge(nn.Identity()).shape == (7, 2)
    assert metric_of(judge).of(np.array([[2.0, 4.0], [4.0, 8.0]])) == 0.5


def test_a_task_is_a_judge_with_its_own_mean():
    task = TinyTask()
    metric = metric_of(task)
    assert metric.aggregate is None
    assert (metric.name, metric.higher_is_better, metric.bounds) == ("accuracy", True, None)
    assert metric.values(task.model(), "it").shape == (101,)
    task.aggregate = lambda _: 3.0
    assert metric_of(task).of(np.ones(2)) == 3.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda _, batch: batch.mean(), r"batch 0: .* shape \(\); expected .* not a mean over them"),
        (lambda _, batch: batch[:, :2] if len(batch) == 5 else batch[:, 0], "as many for each example everywhere"),
    ],
)
def test_values_that_are_no_rows_are_refused(batches, values, message):
    with pytest.raises(CertificateError, match=message):
        mha.Judge(batches, values)(nn.Identity())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": []}, "has no batches"),
        ({"bounds": (1, 0)}, r"the lowest and the highest value, such as \(0, 1\), got \(1, 0\)"),
        ({"bounds": (0, np.inf)}, "the lowest and the highest"),
        ({"bounds": (0, 1, 2)}, "the lowest and the highest"),
    ],
)
def test_a_judge_that_makes_no_sense_is_refused(batches, options, message):
    with pytest.raises(CertificateError, match=message):
        mha.Judge(**{"batches": batches, "values": means} | options)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.ones((2, 3, 1)), r"the dense model: .* shape \(2, 3, 1\)"),
        (np.ones(0), r"shape \(0,\)"),
        (np.ones((4, 3)), "3 statistics for each example; say with aggregate="),
        (np.array([1, np.nan, 2, np.inf]), r"2 of 4 examples are NaN or infinite \(examples 1, 3\)"),
        (np.array([0.5, 1.25]), "values from 0.5 to 1.25, outside of the bounds 0 to 1"),
    ],
)
def test_values_that_can_not_be_judged_are_refused(batches, returned, message):
    metric = metric_of(mha.Judge(batches, means), bounds=(0, 1))
    object.__setattr__(metric, "evaluate", lambda _: returned)
    with pytest.raises(CertificateError, match=message):
        metric.values(nn.Identity(), "the dense model")


def test_what_is_no_judge_is_refused():
    with pytest.raises(CertificateError, match=r"the judge is a function; expected an mha\.Judge or a task"):
        metric_of(means)
