"""The task `sentences`: embeddings as its authors make them, and a search that counts what it should."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench import tasks
from bench.tasks.sentences import Sentences, SentencesSettings, Texts

pytestmark = pytest.mark.skipif(tasks.missing("sentences") is not None, reason=str(tasks.missing("sentences")))

SMALL = SentencesSettings(
    packages=("python",), evaluation=23, calibration=19, unlabelled=31, query_tokens=17, document_tokens=47, batch=7
)


@pytest.fixture(scope="module")
def task():
    return Sentences(SMALL)


@pytest.fixture(scope="module")
def model(task):
    return task.model()


def embedded(task, model, text, limit):
    """The embedding of one text, alone and without padding, by the mean over its tokens."""
    ids = torch.tensor([task.tokenizer(text, truncation=True, max_length=limit).input_ids])
    with torch.inference_mode():
        return F.normalize(model(input_ids=ids).last_hidden_state.mean(dim=1), dim=-1)[0]


def test_the_search_is_that_of_each_text_alone(task, model):
    pairs = task.pairs["evaluation"]
    summaries = torch.stack([embedded(task, model, pair.summary, 17) for pair in pairs])
    texts = torch.stack([embedded(task, model, pair.text, 47) for pair in pairs])
    expected = (summaries @ texts.T).argmax(dim=1) == torch.arange(23)
    values = task.evaluate(model)
    assert values.tolist() == expected.double().tolist()
    assert 0.4 < task.aggregate(values) < 1


def test_a_batch_has_examples_first_and_its_loss_is_that_of_a_search(task, model):
    batches = task.calibration()
    assert [len(batch.input_ids) for batch in batches] == [7, 7, 5]
    assert all(batch.input_ids.shape[1] == 2 for batch in batches)
    with torch.inference_mode():
        embeddings = task.forward(model, batches[1])
        loss = task.loss(model, batches[1])
    summaries, texts = embeddings[::2].double().numpy(), embeddings[1::2].double().numpy()
    logits = 20 * summaries @ texts.T
    expected = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    assert embeddings.shape == (14, 384)
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-5)


def test_texts_of_like_length_share_a_batch(task):
    widths = [batch.input_ids.shape[-1] for batch in task.calibration()]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] <= 47
    for batch in task.calibration():
        assert batch.attention_mask.sum(dim=-1).max() == batch.input_ids.shape[-1]


def test_unlabelled_texts_run_and_are_no_others(task, model):
    batches = task.unlabelled()
    assert [len(batch.input_ids) for batch in batches] == [3] * 10 + [1]
    with torch.inference_mode():
        assert task.forward(model, batches[0]).shape == (3, 384)


def test_every_model_is_a_new_one_with_the_same_weights(task, model):
    other = task.model()
    assert other is not model
    assert not other.training
    with torch.no_grad():
        next(iter(other.parameters())).zero_()
    assert next(iter(model.parameters())).abs().sum() > 0


def test_inputs_for_timing(task, model):
    args, kwargs = task.example(3, 11)
    assert (args, kwargs["input_ids"].shape) == ((), (3, 11))
    assert task.example(2)[1]["input_ids"].shape == (2, 47)
    assert isinstance(model, nn.Module)
    assert task.chance == 1 / 23


def test_padding_changes_no_embedding(task, model):
    short = torch.tensor([[[101, 2023, 102]]])
    wide = Texts(F.pad(short, (0, 8)), F.pad(torch.ones_like(short), (0, 8)))
    with torch.inference_mode():
        alone = task.forward(model, Texts(short, torch.ones_like(short)))
        assert torch.allclose(task.forward(model, wide), alone, atol=1e-6)
