"""Trained once, kept whole: the cache of reference models."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.tasks import _training as training
from bench.tasks._training import train, trained


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(training.CACHE, str(tmp_path / "models"))
    return tmp_path / "models"


def build() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(3, 2)


def distance(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return (model(batch) - 3).square().mean()


def fit(model: nn.Module) -> None:
    train(model, [torch.ones(5, 3)], distance, steps=7, learning_rate=0.1)


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_training_lowers_the_loss_and_leaves_the_threads_alone():
    model, threads = build(), torch.get_num_threads()
    before = distance(model, torch.ones(5, 3)).item()
    fit(model)
    assert distance(model, torch.ones(5, 3)).item() < 0.5 * before
    assert not model.training
    assert torch.get_num_threads() == threads


def test_a_model_is_trained_once(cache):
    calls = []

    def counted(model):
        calls.append(1)
        fit(model)

    first, second = (trained("tiny", build, counted, sources=[], settings={"steps": 7}) for _ in range(2))
    assert calls == [1]
    assert first is not second
    assert all(torch.equal(first.state_dict()[key], value) for key, value in second.state_dict().items())
    assert len(entries(cache)) == 1


def test_other_settings_or_code_train_anew(cache, tmp_path):
    source = tmp_path / "task.py"
    source.write_text("one")
    trained("tiny", build, fit, sources=[source], settings={"steps": 7})
    trained("tiny", build, fit, sources=[source], settings={"steps": 8})
    source.write_text("two")
    trained("tiny", build, fit, sources=[source], settings={"steps": 8})
    assert len(entries(cache)) == 3


class Trainee:
    """What offers both as methods, as a task does."""

    def __init__(self, rate=0.1, more=None):
        self.rate, self.more = rate, more

    def build(self):
        return build()

    def fit(self, model):
        train(model, [torch.ones(5, 3)], self.loss, steps=2, learning_rate=self.rate)

    def loss(self, model, batch):
        return distance(model, batch)


class Other(Trainee):
    def loss(self, model, batch):
        return -distance(model, batch)


def test_a_task_that_inherits_from_another_does_not_get_its_model(cache):
    for task in (Trainee(), Trainee(), Trainee(0.2), Other(), Trainee(more=lambda: 1), Trainee(more=lambda: 2)):
        trained("tiny", task.build, task.fit, sources=[], settings={})
    assert len(entries(cache)) == 5
    trained("tiny", *(getattr(Trainee(more=iter(())), name) for name in ("build", "fit")), sources=[], settings={})
    assert len(entries(cache)) == 6


def test_what_cannot_be_told_from_another_is_trained_each_time(cache, tmp_path):
    with (tmp_path / "log").open("w") as file:
        task = Trainee(more=file)
        assert not trained("tiny", task.build, task.fit, sources=[], settings={}).training
    assert not cache.exists() or entries(cache) == []


@pytest.mark.parametrize("where", ["training", "writing"])
def test_an_interrupted_training_leaves_no_entry(cache, monkeypatch, where):
    def interrupted(*_):
        raise KeyboardInterrupt

    if where == "writing":
        monkeypatch.setattr(training, "save_file", lambda _, path: (Path(path).write_bytes(b"half"), interrupted()))
    with pytest.raises(KeyboardInterrupt):
        trained("tiny", build, fit if where == "writing" else interrupted, sources=[], settings={})
    assert entries(cache) == []
    monkeypatch.undo()
    monkeypatch.setenv(training.CACHE, str(cache))
    assert not trained("tiny", build, fit, sources=[], settings={}).training


def test_no_batches_is_an_error():
    with pytest.raises(ValueError, match="no training batches"):
        train(build(), [], distance, steps=3, learning_rate=0.1)
