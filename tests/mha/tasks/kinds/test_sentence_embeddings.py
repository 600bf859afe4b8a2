"""Sentence embeddings: ranks beside those of texts embedded one at a time."""

import pytest
import torch
import torch.nn.functional as F

from mha.tasks import read_task
from mha.values.errors import TaskError
from tests.mha.support.task_files import check_scoring, model, task_file, texts, tokenizer

KIND = "sentence-embeddings"


def rows(seed, count):
    """Each text belongs to one that begins as it does."""
    others = texts(seed + 1, count)
    return [{"query": one, "document": f"{one} {other}"} for one, other in zip(texts(seed, count), others, strict=True)]


@pytest.fixture
def encoder():
    return model("bert", "AutoModel")


@pytest.fixture
def parts():
    return {"calibration": rows(1, 6), "evaluation": rows(3, 13), "unlabelled": [{"query": one} for one in texts(5, 3)]}


def embedded(encoder, text, pooling="mean"):
    with torch.no_grad():
        hidden = encoder(**tokenizer()(text, return_tensors="pt")).last_hidden_state[0]
    return F.normalize({"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1]}[pooling], dim=0)


def ranks(encoder, some, pooling="mean", prefix=""):
    texts = torch.stack([embedded(encoder, prefix + row["query"], pooling) for row in some])
    others = torch.stack([embedded(encoder, row["document"], pooling) for row in some])
    order = (texts @ others.T).argsort(dim=1, descending=True).tolist()
    return [1 + own.index(row) for row, own in enumerate(order)]


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_accuracy_at_1_and_mrr(tmp_path, encoder, parts, pooling):
    more = f'[options]\npooling = "{pooling}"\nprefix = "w3 w4 "'
    expected = ranks(encoder, parts["evaluation"], pooling, "w3 w4 ")
    file = task_file(tmp_path, KIND, parts, more, "batch_size = 4")
    task = read_task(file, encoder, tokenizer())
    assert max(expected) > 1
    assert task.evaluate(encoder).tolist() == [rank == 1 for rank in expected]
    mrr = read_task(task_file(tmp_path, KIND, parts, more, 'metric = "MRR"'), encoder, tokenizer())
    assert mrr.evaluate(encoder).tolist() == pytest.approx([1 / rank for rank in expected])
    assert mrr.bounds == (0.0, 1.0)
    assert task.chance == 1 / 13
    assert mrr.chance == pytest.approx(sum(1 / rank for rank in range(1, 14)) / 13)


def test_the_loss_is_over_the_texts_of_a_batch(tmp_path, encoder, parts):
    task = read_task(task_file(tmp_path, KIND, parts), encoder, tokenizer())
    (batch,) = task.calibration()
    assert batch["input_ids"].shape[:2] == (6, 2)
    texts = torch.stack([embedded(encoder, row["query"]) for row in parts["calibration"]])
    others = torch.stack([embedded(encoder, row["document"]) for row in parts["calibration"]])
    logs = (20 * texts @ others.T).log_softmax(dim=1)
    assert float(task.loss(encoder, batch).detach()) == pytest.approx(float(-logs.diagonal().mean()), rel=1e-9)
    assert [tuple(part.shape[:2]) for part in (one["input_ids"] for one in task.unlabelled())] == [(3, 1)]
    assert task.forward(encoder, task.unlabelled()[0]).shape == (3, 24)


def test_it_is_scored_and_pruned(tmp_path, encoder, parts):
    check_scoring(read_task(task_file(tmp_path, KIND, parts), encoder, tokenizer()), "leave_one_out")


def test_an_unknown_pooling(tmp_path, encoder, parts):
    with pytest.raises(
        TaskError, match=r"\[options\] unknown pooling 'men'; did you mean 'mean'\? There are: mean, first"
    ):
        read_task(task_file(tmp_path, KIND, parts, '[options]\npooling = "men"'), encoder, tokenizer())
