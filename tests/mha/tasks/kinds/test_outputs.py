"""Outputs: distances to the dense model beside those of one text at a time."""

import pytest
import torch

import mha
from mha.tasks import read_task
from mha.values.errors import TaskError
from tests.mha.support.task_files import check_scoring, model, task_file, texts, tokenizer


@pytest.fixture
def parts():
    return {part: [{"text": one} for one in texts(seed, 7)] for seed, part in ((1, "calibration"), (2, "evaluation"))}


def outputs(one, text):
    with torch.no_grad():
        return one(**tokenizer()(text, return_tensors="pt"))


@pytest.fixture
def encoder():
    return model("bert", "AutoModel")


def smaller(encoder):
    scores = mha.score(encoder, None, None, "magnitude")
    return mha.prune(encoder, mha.choose(scores, keep=0.5))


def test_squared_distances_of_hidden_states(tmp_path, encoder, parts):
    task = read_task(task_file(tmp_path, "outputs", parts, top="batch_size = 3"), encoder, tokenizer())
    pruned = smaller(encoder)
    expected = []
    for row in parts["evaluation"]:
        ours, dense = (outputs(one, row["text"]).last_hidden_state for one in (pruned, encoder))
        expected.append(float((ours - dense).square().sum() / dense.square().sum()))
    assert (task.metric, task.higher_is_better) == ("squared distance", False)
    assert min(expected) > 1e-3
    assert task.evaluate(pruned).tolist() == pytest.approx(expected)
    assert task.evaluate(task.model()).tolist() == pytest.approx([0] * 7, abs=1e-12)
    tokens = sum(len(tokenizer()(row["text"])["input_ids"]) for row in parts["calibration"])
    assert sum(len(task.forward(encoder, batch)) for batch in task.calibration()) == tokens


def test_divergences_of_logits(tmp_path, parts):
    guesser = model("bert", "AutoModelForMaskedLM")
    task = read_task(task_file(tmp_path, "outputs", parts), guesser, tokenizer())
    pruned = smaller(guesser)
    expected = []
    for row in parts["evaluation"]:
        ours, dense = (outputs(one, row["text"]).logits[0].log_softmax(-1) for one in (pruned, guesser))
        expected.append(float((dense.exp() * (dense - ours)).sum(-1).mean()))
    assert task.metric == "divergence"
    assert task.evaluate(pruned).tolist() == pytest.approx(expected)


def test_it_is_scored_and_pruned(tmp_path, encoder, parts):
    check_scoring(read_task(task_file(tmp_path, "outputs", parts), encoder, tokenizer()), "leave_one_out")


def test_shrink_takes_it(tmp_path, encoder, parts):
    task = read_task(task_file(tmp_path, "outputs", parts), encoder, tokenizer())
    dense = task.model().float()
    shrunk = mha.shrink(dense, task.calibration(), task.loss, task.forward, keep=0.5)
    assert sum(layer.num_heads for layer in mha.find_attention(shrunk).values()) == 4


def test_models_with_a_decoder_are_refused(tmp_path, parts):
    with pytest.raises(TaskError, match='for one with a decoder: kind = "sequence-to-sequence"'):
        read_task(task_file(tmp_path, "outputs", parts), model("t5", "AutoModelForSeq2SeqLM"), tokenizer())


def test_the_dense_model_is_that_which_the_task_was_read_for_whatever_becomes_of_it(tmp_path, encoder, parts):
    task = read_task(task_file(tmp_path, "outputs", parts), encoder, tokenizer())
    plan = mha.HeadPlan({name: layer.heads[:1] for name, layer in mha.find_attention(encoder).items()})
    expected = task.evaluate(mha.prune(encoder, plan))
    assert expected.min() > 1e-3
    task = read_task(task_file(tmp_path, "outputs", parts), encoder, tokenizer())
    with mha.masked(encoder, plan):  # before anything has been computed of the dense one
        assert task.evaluate(encoder).tolist() == pytest.approx(expected.tolist())
