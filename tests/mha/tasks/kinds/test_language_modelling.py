"""Masked and causal language modelling, beside the likelihoods of one text at a time."""

import math

import numpy as np
import pytest
import torch

from mha.tasks import read_task
from mha.tasks.kinds.causal_language_modelling import windows
from mha.values.errors import TaskError
from tests.mha.support.task_files import check_scoring, model, task_file, text, texts, tokenizer

CAUSAL, MASKED = "causal-language-modelling", "masked-language-modelling"


@pytest.fixture
def causal():
    return model("llama", "AutoModelForCausalLM", bos_token_id=None, eos_token_id=None)


@pytest.fixture
def guesser():
    return model("bert", "AutoModelForMaskedLM")


@pytest.fixture
def parts():
    return {
        "calibration": [{"text": one} for one in texts(1, 5)],
        "evaluation": [{"text": text(7, 29)}, {"text": text(8, 3)}, {"text": text(9, 11)}],
    }


def likelihoods(causal, ids):
    """log p of each token but the first, given all before it."""
    with torch.no_grad():
        logs = causal(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logs[place - 1, ids[place]]) for place in range(1, len(ids))]


def ids_of(row):
    return tokenizer(bare=True)(row["text"])["input_ids"]


def test_perplexity_of_texts_that_fit_into_a_window(tmp_path, causal, parts):
    task = read_task(task_file(tmp_path, CAUSAL, parts), causal, tokenizer(bare=True))
    logs = [likelihoods(causal, ids_of(row)) for row in parts["evaluation"]]
    np.testing.assert_allclose(task.evaluate(causal), [[-sum(some), len(some)] for some in logs], rtol=1e-9)
    everything = [value for some in logs for value in some]
    assert task.aggregate(task.evaluate(causal)) == pytest.approx(math.exp(-sum(everything) / len(everything)))
    assert (task.metric, task.higher_is_better, task.chance, task.generates) == ("perplexity", False, 97.0, True)


def test_a_stride_gives_each_token_so_much_before_it(tmp_path, causal, parts):
    top, more = "max_length = 11\nbatch_size = 2", "[options]\nstride = 4"
    task = read_task(task_file(tmp_path, CAUSAL, parts, more, top), causal, tokenizer(bare=True))
    expected = []
    for row in parts["evaluation"]:
        ids = ids_of(row)
        seen, judged = [], 1
        for start in range(0, len(ids), 4):
            end = min(start + 11, len(ids))
            seen.append(likelihoods(causal, ids[start:end])[max(judged - start - 1, 0) :])
            judged = end
            if end == len(ids):
                break
        assert sum(map(len, seen)) == len(ids) - 1
        expected += [[-sum(some), len(some)] for some in seen]
    np.testing.assert_allclose(task.evaluate(causal), expected, rtol=1e-9)


def test_loss_and_accuracy(tmp_path, causal, parts):
    file = task_file(tmp_path, CAUSAL, parts, top='metric = "accuracy"\nbatch_size = 5')
    task = read_task(file, causal, tokenizer(bare=True))
    (batch,) = task.calibration()
    means = [-np.mean(likelihoods(causal, ids_of(row))) for row in parts["calibration"]]
    assert float(task.loss(causal, batch).detach()) == pytest.approx(np.mean(means), rel=1e-9)
    right = []
    for row in parts["evaluation"]:
        ids = torch.tensor([ids_of(row)])
        with torch.no_grad():
            guesses = causal(input_ids=ids).logits[0, :-1].argmax(-1)
        right.append([int((guesses == ids[0, 1:]).sum()), ids.shape[1] - 1])
    assert task.evaluate(causal).tolist() == right


def test_it_goes_on_as_greedily_as_transformers(tmp_path, causal, parts):
    task = read_task(task_file(tmp_path, CAUSAL, parts), causal, tokenizer(bare=True))
    assert task.prompts()[1:] == (text(8, 3), " ".join(text(9, 11).split()[:8]))
    pieces = task.generate(causal, "w1 w2", 5)
    ids = [6, 7]
    for _ in range(5):
        with torch.no_grad():
            ids.append(int(causal(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert "".join(pieces).split() == [f"w{number - 5}" for number in ids[2:] if number > 4]
    assert len(pieces) == 5


def test_causal_models_are_scored_and_pruned(tmp_path, causal, parts):
    check_scoring(read_task(task_file(tmp_path, CAUSAL, parts), causal, tokenizer(bare=True)))


@pytest.mark.parametrize(
    ("length", "stride", "expected"),
    [
        (9, 9, [([0, 1, 2, 3, 4], [1, 2, 3, 4, -100])]),
        (3, 3, [([0, 1, 2], [1, 2, -100]), ([3, 4], [4, -100])]),
        (3, 2, [([0, 1, 2], [1, 2, -100]), ([2, 3, 4], [3, 4, -100])]),
        (4, 1, [([0, 1, 2, 3], [1, 2, 3, -100]), ([1, 2, 3, 4], [-100, -100, 4, -100])]),
    ],
)
def test_windows(length, stride, expected):
    assert [(one["input_ids"], one["labels"]) for one in windows(range(5), length, stride)] == expected


def test_a_stride_longer_than_a_window(tmp_path, causal, parts):
    file = task_file(tmp_path, CAUSAL, parts, "[options]\nstride = 12", "max_length = 11")
    with pytest.raises(TaskError, match="stride = 12: expected from 1 to the 11 tokens of a window"):
        read_task(file, causal, tokenizer(bare=True))


def test_hidden_tokens_are_guessed(tmp_path, guesser, parts):
    for some in parts.values():
        for row in some:
            row["text"] = " ".join(row["text"].split()[:20])
    task = read_task(task_file(tmp_path, MASKED, parts, "[options]\nmasked = 0.3"), guesser, tokenizer())
    values = task.evaluate(guesser)
    for row, example, value in zip(parts["evaluation"], task.examples["evaluation"], values, strict=True):
        ids = tokenizer()(row["text"])["input_ids"]
        hidden = [place for place, token in enumerate(example["input_ids"]) if token == 4]
        assert len(hidden) == max(1, round(0.3 * (len(ids) - 2)))
        assert 0 not in hidden
        assert example["labels"] == [token if place in hidden else -100 for place, token in enumerate(ids)]
        with torch.no_grad():
            logs = guesser(input_ids=torch.tensor([example["input_ids"]])).logits[0].log_softmax(-1)
        assert value.tolist() == pytest.approx([-sum(float(logs[place, ids[place]]) for place in hidden), len(hidden)])
    assert task.aggregate(values) == pytest.approx(math.exp(values[:, 0].sum() / values[:, 1].sum()))
    again = read_task(tmp_path / "task.toml", guesser, tokenizer())
    assert again.evaluate(guesser).tolist() == values.tolist()
    check_scoring(task)


def test_no_mask_token(tmp_path, guesser, parts):
    with pytest.raises(TaskError, match="masked-language-modelling needs a tokenizer with a mask token; this has none"):
        read_task(task_file(tmp_path, MASKED, parts), guesser, tokenizer(mask_token=None))
