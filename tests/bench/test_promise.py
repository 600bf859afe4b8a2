"""How often a promise is broken: counted right, on a population made up so that trusting what is seen breaks it."""

import csv

import numpy as np
import pytest

from bench import promise, tasks
from bench.promise import Population
from mha.certifying.judge import Metric
from tests.bench.tiny_task import TinyTask

ACCURACY = Metric(lambda _: None, None, True, "accuracy", None)


@pytest.fixture
def population():
    """A thousand examples, all right; steps that lose 0, 2 and 5 points, and remove 10, 20 and 40 % of the heads."""
    wrong = np.array([0, 20, 50])[:, None]
    steps = (np.arange(1000) >= wrong).astype(float)
    return Population(np.ones(1000), {"raw": steps, "repaired": steps}, np.array([0.1, 0.2, 0.4]))


def test_the_promise_is_kept_at_the_boundary_and_the_naive_choice_breaks_it(population):
    certified, naive = promise.tried(ACCURACY, population, "raw", 0.02 - 1e-9, 500, 200)
    assert (certified["method"], naive["method"]) == ("certified", "naive")
    assert certified["low"] <= 0.05
    assert naive["share"] > 0.4
    assert certified["removed_at_best"] == naive["removed_at_best"] == 0.1
    assert certified["share"] == certified["broken"] / 200


def test_what_is_removed_is_counted_beside_the_best(population):
    certified, naive = promise.tried(ACCURACY, population, "raw", 0.04, 1000, 50)
    assert certified["removed_at_best"] == 0.2
    assert 0.15 < certified["removed"] <= 0.2 + 1e-9
    assert certified["dense"] == naive["dense"] == 0


def test_where_nothing_can_be_shown_the_dense_model_is_counted(population):
    certified, _ = promise.tried(ACCURACY, population, "raw", 0.02, 100, 20)  # too few for 2 points
    assert certified["dense"] == 1
    assert certified["removed"] == certified["broken"] == 0


def test_the_hardest_losses_are_just_below_those_of_steps():
    found = promise.allowed(np.array([0.0, 0.03, 0.2, 0.03]))
    assert [value for value, hardest in found if not hardest] == list(promise.AT_MOST)
    ((hard, _),) = [pair for pair in found if pair[1]]
    assert hard < 0.03 == pytest.approx(hard)


def test_losses_of_a_metric_that_should_be_small_are_rises():
    metric = Metric(lambda _: None, None, False, "loss", None)
    assert promise.losses_of(metric, np.array([1.0, 3.0]), np.array([[2.0, 4.0]])) == pytest.approx([1.0])


def test_losses_of_a_metric_that_is_no_mean_are_shares():
    metric = Metric(lambda _: None, lambda values: float(np.exp(values.mean())), False, "perplexity", None)
    assert promise.losses_of(metric, np.zeros(2), np.array([[0.0, 0.4]])) == pytest.approx([np.exp(0.2) - 1])


def test_the_interval_is_that_of_clopper_and_pearson():
    assert promise.clopper_pearson(0, 100) == pytest.approx((0, 0.0362), abs=1e-4)
    assert promise.clopper_pearson(5, 100) == pytest.approx((0.0164, 0.1128), abs=1e-4)
    assert promise.clopper_pearson(7, 7)[1] == 1


def test_a_population_is_read_as_it_was_written(population, tmp_path):
    population.save(tmp_path / "p.npz")
    read = Population.load(tmp_path / "p.npz")
    assert read.dense.tolist() == population.dense.tolist()
    assert read.steps["repaired"].tolist() == population.steps["repaired"].tolist()
    assert read.removed.tolist() == [0.1, 0.2, 0.4]


def test_it_runs_writes_its_table_and_reads_what_was_judged_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tasks, "load", lambda name: {"tiny": TinyTask()}[name])
    monkeypatch.setattr(tasks, "names", lambda: ("tiny",))
    monkeypatch.setattr(tasks, "usual", lambda: ("tiny",))
    arguments = ["-o", str(tmp_path), "--keep", "0.7", "0.4", "--examples", "200", "--draws", "20"]
    promise.main(arguments)
    first = (tmp_path / "promise.csv").read_text()
    rows = list(csv.DictReader(first.splitlines()))
    assert {(row["task"], row["arm"], row["method"]) for row in rows} == {
        ("tiny", arm, method) for arm in ("raw", "repaired") for method in ("certified", "naive")
    }
    assert Population.load(tmp_path / "tiny.npz").removed == pytest.approx([1 - 4 / 6, 1 - 2 / 6], abs=1e-9)
    monkeypatch.setattr(promise, "judged", None)  # it is not made again
    promise.main(arguments)
    assert (tmp_path / "promise.csv").read_text() == first
    assert "certified: broken in" in capsys.readouterr().out
