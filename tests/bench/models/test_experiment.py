"""What a run knows about a task: made once, and equal to what the library says when asked directly."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

import mha
from bench.measure.contents import digest
from bench.models.attention_maps import attention_maps, recorded_weights
from bench.models.experiment import Experiment
from tests.bench.tiny_task import HEAD_DIM, HEADS, WIDTH, TinyTask

LAYERS = ("layers.0", "layers.1")


class UntrainedTask(TinyTask):
    """The tiny task, without the time to train."""

    steps = 0


@pytest.fixture
def facts():
    return {}


@pytest.fixture
def experiment(facts):
    return Experiment(UntrainedTask(), note=facts.update)


def test_dense_and_none(experiment):
    assert experiment.plan("dense", 1.0) == mha.HeadPlan(dict.fromkeys(LAYERS, range(HEADS)))
    assert experiment.plan("none", 0.0) == mha.HeadPlan(dict.fromkeys(LAYERS, ()))
    assert experiment.describe(experiment.plan("none", 0.0)) == {"heads_kept": 0, "heads_total": 6, "shape": [0, 0]}


def test_plans_are_the_librarys(experiment):
    scores = mha.score(experiment.model(), experiment.task.calibration(), experiment.task.loss, "taylor")
    assert experiment.scores("taylor")[0] == scores
    assert experiment.plan("taylor", 0.5) == mha.choose(scores, keep=0.5)


def test_heads_are_scored_once(experiment, monkeypatch):
    asked = []
    found = mha.HeadScores({name: torch.arange(3.0) for name in ("layers.0", "layers.1")})
    monkeypatch.setattr(mha, "score", lambda *_, **options: asked.append(options) or found)
    experiment.scores("taylor")
    experiment.scores("taylor", 0)
    experiment.scores(criterion="taylor", seed=0)
    experiment.plan("taylor", 0.5)
    assert asked == [{"seed": 0}]


def test_draws_are_seeds(experiment):
    plans = [experiment.plan("random", 0.5, draw) for draw in range(20)]
    for seed, plan in enumerate(plans):
        assert plan == mha.choose(mha.score(experiment.model(), None, None, "random", seed=seed), keep=0.5)
        assert experiment.describe(plan)["heads_kept"] == 3
    assert len(set(plans)) > 5


def test_even_plans_keep_the_same_of_each_layer(experiment):
    plans = [experiment.plan("even", 1 / 3, draw) for draw in range(12)]
    assert {tuple(experiment.describe(plan)["shape"]) for plan in plans} == {(1, 1)}
    assert {plan.keep["layers.0"] for plan in plans} == {(0,), (1,), (2,)}


def test_accuracy_is_that_of_the_pruned_model(experiment, facts):
    plan = mha.HeadPlan({"layers.0": (0, 2), "layers.1": ()})
    with mha.masked(experiment.model(), plan):
        expected = experiment.task.evaluate(experiment.model())
    dense = experiment.task.evaluate(experiment.model())
    accuracy = experiment.accuracy(plan)
    assert accuracy["values"] == expected.astype(float).tolist()
    assert accuracy["value"] == expected.mean()
    assert accuracy["difference"] == pytest.approx(expected.mean() - dense.mean())
    assert accuracy["keep"] == {"layers.0": [0, 2], "layers.1": []}
    per_head = 4 * WIDTH * HEAD_DIM + 3 * HEAD_DIM  # rows of W_q, W_k, W_v with their biases, columns of W_o
    assert facts["parameters"] - accuracy["parameters"] == 4 * per_head
    sizes = {"layers": dict.fromkeys(LAYERS, 3), "heads": 6, "parameters": facts["parameters"], "examples": 101}
    assert facts == {**sizes, "weights": digest(experiment.model().state_dict())}


def test_another_aggregate_is_used_for_values_and_intervals(experiment):
    class Misses(UntrainedTask):
        def aggregate(self, values):
            return float(len(values) - values.sum())

    plan = experiment.plan("none", 0.0)
    mean, misses = experiment.accuracy(plan), Experiment(Misses()).accuracy(plan)
    assert misses["value"] == pytest.approx(101 - 101 * mean["value"])
    assert (misses["low"], misses["high"]) == pytest.approx((101 - 101 * mean["high"], 101 - 101 * mean["low"]))


def test_what_failed_fails_again_at_once():
    class Broken(UntrainedTask):
        calls = 0

        def model(self):
            self.calls += 1
            raise RuntimeError("no space left")

    experiment = Experiment(Broken())
    traces = []
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no space left") as caught:
            experiment.plan("dense", 1.0)
        traces.append(len(caught.traceback))
    assert experiment.task.calls == 1
    assert traces[1] == traces[2]


@pytest.mark.parametrize("values", [np.float64(0.5), np.ones((2, 3, 5)), np.ones(0)], ids=["scalar", "3-D", "empty"])
def test_evaluate_must_return_rows(monkeypatch, experiment, values):
    monkeypatch.setattr(experiment.task, "evaluate", lambda _: values)
    with pytest.raises(ValueError, match=r"one row for each held-out example, shape \(n,\) or \(n, k\), got \("):
        experiment.accuracy(experiment.plan("none", 0.0))


def test_evaluate_must_return_numbers(monkeypatch, experiment):
    monkeypatch.setattr(experiment.task, "evaluate", lambda _: np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="task 'tiny': evaluate returned values that are NaN or infinite"):
        experiment.accuracy(experiment.plan("none", 0.0))


def test_aggregate_must_return_a_number_for_any_resample(monkeypatch, experiment):
    monkeypatch.setattr(experiment.task, "aggregate", lambda values: 1.0 if values[0] else float("nan"))
    with pytest.raises(ValueError, match="task 'tiny': aggregate is NaN or infinite, for all examples or a resample"):
        experiment.accuracy(experiment.plan("none", 0.0))


def test_all_models_are_judged_on_the_same_examples(monkeypatch, experiment):
    sizes = iter([3, 5])  # the dense model's come first
    monkeypatch.setattr(experiment.task, "evaluate", lambda _: np.ones(next(sizes)))
    with pytest.raises(ValueError, match="returned 3 rows for a pruned model and 5 for the dense one"):
        experiment.accuracy(experiment.plan("none", 0.0))


def test_a_model_without_attention_is_named(monkeypatch, experiment):
    monkeypatch.setattr(experiment.task, "model", lambda: torch.nn.Linear(2, 3))
    with pytest.raises(mha.UnsupportedModule, match="the model of task 'tiny' has no attention of a known family"):
        experiment.plan("dense", 1.0)


def test_inputs_move_whatever_they_are_nested_in(experiment, monkeypatch):
    class Pair(NamedTuple):
        first: torch.Tensor
        second: int

    nested = Pair(torch.ones(2), 3), [torch.ones(3), None]
    monkeypatch.setattr(experiment.task, "example", lambda _: (nested, {"a": {"b": torch.ones(5)}}))
    (pair, listed), kwargs = experiment.inputs(1, "meta")
    assert (pair.first.device.type, pair.second) == ("meta", 3)
    assert (listed[0].device.type, listed[1]) == ("meta", None)
    assert kwargs["a"]["b"].device.type == "meta"


def test_attention_weights_are_those_that_the_layer_uses(experiment):
    (tokens, _), _ = experiment.task.attention_examples()["seed 5"]
    model = experiment.model()
    with torch.inference_mode():
        x = model.embedding(tokens)
        y, expected = model.layers[0](x, x, x, need_weights=True)
        _, second = model.layers[1](x + y, x + y, x + y, need_weights=True)
        before = model(tokens)
        with recorded_weights(model) as weights:
            during = model(tokens)
            plain = model.layers[0](x, x, x)
            asked, _ = model.layers[0](x, x, x, need_weights=True)
    torch.testing.assert_close(weights, {"layers.0": expected, "layers.1": second})
    torch.testing.assert_close(during, before)
    torch.testing.assert_close(plain, asked)
    assert all("forward" not in vars(layer) for layer in model.layers)


def test_attention_maps_of_a_pruned_model(experiment):
    plan = mha.HeadPlan({"layers.0": (0, 2), "layers.1": ()})
    arrays = attention_maps(experiment, plan, "tiny-some")
    assert arrays["tiny/plan"] == "tiny-some"
    shapes = {name: array.shape for name, array in arrays.items() if name.endswith(("dense", "pruned"))}
    expected = {"layers.0/dense": (3, 5, 5), "layers.0/pruned": (2, 5, 5)}
    expected |= {"layers.1/dense": (3, 5, 5), "layers.1/pruned": (0, 5, 5)}
    assert shapes == {f"tiny/{number}/{name}": shape for number in (0, 1) for name, shape in expected.items()}
    for number, (name, ((tokens, _), _)) in enumerate(experiment.task.attention_examples().items()):
        first = {part: arrays[f"tiny/{number}/layers.0/{part}"] for part in ("dense", "pruned", "heads", "queries")}
        assert arrays[f"tiny/{number}/name"] == name
        assert first["heads"].tolist() == [0, 2]
        # what the first layer reads is not changed by pruning, so the heads that stay look where they looked
        np.testing.assert_allclose(first["pruned"], first["dense"][[0, 2]], atol=1e-6)
        np.testing.assert_allclose(first["dense"].sum(axis=-1), 1.0, atol=1e-6)
        assert [str(token) for token in tokens[0].tolist()] == [*first["queries"]]


def test_a_task_without_an_example_has_no_maps(experiment, monkeypatch):
    monkeypatch.setattr(experiment.task, "attention_examples", dict)
    assert attention_maps(experiment, experiment.plan("dense", 1.0), "tiny-dense") == {"tiny/plan": "tiny-dense"}


def test_what_the_task_gives_is_told_so_that_no_other_takes_its_place(facts):
    told = []
    experiment = Experiment(UntrainedTask(), note=facts.update, check=told.append)
    experiment.scores("magnitude")
    experiment.accuracy(experiment.plan("none", 0.0))
    experiment.metric(experiment.plan("dense", 1.0))
    assert facts["calibration_data"] == digest(experiment.task.calibration())
    assert [values.tolist() for values in told] == [experiment.task.evaluate(experiment.model()).tolist()]


def test_a_plan_that_was_made_before_is_not_made_again(experiment, monkeypatch):
    keep = {"layers.0": [2], "layers.1": [0, 1]}
    made = {("gate", 0.5, 0): keep}
    again = Experiment(experiment.task, made=lambda *asked: made.get(asked))
    monkeypatch.setattr(again, "scores", None)  # would be called
    assert again.plan("gate", 0.5) == mha.HeadPlan(keep)
    assert again.plan("none", 0.0) == mha.HeadPlan({"layers.0": (), "layers.1": ()})


def test_a_repaired_model_is_the_librarys(experiment):
    task, keep = experiment.task, 0.5
    plan = experiment.plan("magnitude", keep)
    pruned = mha.prune(experiment.model(), plan)
    expected = mha.compensate(pruned, experiment.model(), task.calibration(), task.forward, progress=False)
    record = experiment.repaired_accuracy("magnitude", keep, "compensate")
    assert record["values"] == task.evaluate(expected).astype(float).tolist()
    assert record["keep"] == {name: list(heads) for name, heads in plan.keep.items()}
    assert record["shape"] == experiment.describe(plan)["shape"]
    assert record["parameters"] == sum(weight.numel() for weight in expected.parameters())
    assert record["repair_seconds"] > 0
    assert record["repair_bytes"] is None or record["repair_bytes"] >= 0


def test_what_is_shrunk_has_a_plan_of_its_own_and_is_made_once(experiment, monkeypatch):
    small = mha.prune(experiment.model(), mha.HeadPlan({"layers.0": (1,)}))
    asked = []
    monkeypatch.setattr(mha, "shrink", lambda *_, **budget: asked.append(budget) or small)
    record = experiment.repaired_accuracy("shrink", 2 / 3, "shrink")
    assert experiment.plan("shrink", 2 / 3) == mha.HeadPlan({"layers.0": (1,), "layers.1": range(HEADS)})
    assert (record["keep"], record["shape"]) == ({"layers.0": [1], "layers.1": [0, 1, 2]}, [1, 3])
    assert asked == [{"keep": 2 / 3, "distance": None}]


def test_a_plan_that_an_earlier_part_has_shrunk_is_taken_from_there(monkeypatch):
    monkeypatch.setattr(mha, "shrink", None)
    made = {"layers.0": [2], "layers.1": []}
    experiment = Experiment(UntrainedTask(), made=lambda *key: made if key == ("shrink", 0.25, 0) else None)
    assert experiment.plan("shrink", 0.25) == mha.HeadPlan(made)
