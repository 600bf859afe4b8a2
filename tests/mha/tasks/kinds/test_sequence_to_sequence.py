"""Sequence to sequence: what the model writes of one text at a time, judged by the libraries' own functions."""

import numpy as np
import pytest
import torch

from mha.tasks import read_task
from mha.tasks.kinds.sequence_to_sequence import bleu, chrf, equal, of_sacrebleu, word_errors
from mha.values.errors import TaskError
from tests.mha.support.task_files import check_batches, model, task_file, texts, tokenizer

jiwer = pytest.importorskip("jiwer", reason="jiwer is not installed")
sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")

KIND = "sequence-to-sequence"
WRITTEN = ["the cat sat on the mat", "a dog", "it rains in the north today", "no", "one two three"]
WANTED = ["the cat sat on a mat", "a dog", "it rained in the north", "yes it is", "one three two three"]


@pytest.fixture
def writer():
    return model("t5", "AutoModelForSeq2SeqLM")


@pytest.fixture
def parts(writer):
    """The second half of the evaluation targets are what the model writes."""
    parts = {}
    for seed, part in ((1, "calibration"), (3, "evaluation")):
        pairs = zip(texts(seed, 8), texts(seed + 1, 8), strict=True)
        parts[part] = [{"source": source, "target": target} for source, target in pairs]
    for row in parts["evaluation"][4:]:
        row["target"] = written(writer, row) or row["target"]
    return parts


def written(writer, row):
    ids = writer.generate(
        **tokenizer()(row["source"], return_tensors="pt", return_token_type_ids=False),
        max_new_tokens=6,
        do_sample=False,
    )
    return tokenizer().decode(ids[0], skip_special_tokens=True)  # fmt: skip


def read(tmp_path, writer, parts, metric="exact match"):
    top = f'metric = "{metric}"\nbatch_size = 3'
    file = task_file(tmp_path, KIND, parts, "[options]\nmax_new_tokens = 6", top)
    return read_task(file, writer, bare())


def bare():
    return tokenizer(model_input_names=["input_ids", "attention_mask"])


def test_exact_match(tmp_path, writer, parts):
    task = read(tmp_path, writer, parts)
    expected = [float(written(writer, row) == row["target"]) for row in parts["evaluation"]]
    assert sum(expected) >= 3
    assert task.evaluate(writer).tolist() == expected


@pytest.mark.parametrize("metric", ["chrF", "BLEU", "WER"])
def test_other_metrics_of_what_it_writes(tmp_path, writer, parts, metric):
    task = read(tmp_path, writer, parts, metric)
    ours, true = [written(writer, row) for row in parts["evaluation"]], [row["target"] for row in parts["evaluation"]]
    expected = {
        "chrF": sacrebleu.corpus_chrf(ours, [true]).score,
        "BLEU": sacrebleu.corpus_bleu(ours, [true]).score,
        "WER": jiwer.wer(true, ours),
    }
    assert task.aggregate(task.evaluate(writer)) == pytest.approx(expected[metric])
    assert task.higher_is_better is (metric != "WER")


def test_the_loss_is_of_the_targets(tmp_path, writer, parts):
    task = read(tmp_path, writer, parts, "loss")
    losses = []
    for row in parts["evaluation"]:
        labels = tokenizer()(row["target"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = writer(input_ids=tokenizer()(row["source"], return_tensors="pt")["input_ids"], labels=labels).loss
        losses.append([float(loss) * labels.shape[1], labels.shape[1]])
    np.testing.assert_allclose(task.evaluate(writer), losses, rtol=1e-9)
    assert task.aggregate(task.evaluate(writer)) == pytest.approx(
        sum(loss for loss, _ in losses) / sum(n for _, n in losses)
    )


@pytest.mark.parametrize("rows", [range(5), [0, 0, 3], [4, 1, 2, 2]])
def test_statistics_of_rows_drawn_anew_make_the_libraries_numbers(rows):
    ours, true = [WRITTEN[row] for row in rows], [WANTED[row] for row in rows]
    rows = list(rows)
    assert bleu(of_sacrebleu("BLEU", WRITTEN, WANTED)[rows]) == pytest.approx(sacrebleu.corpus_bleu(ours, [true]).score)
    assert chrf(of_sacrebleu("CHRF", WRITTEN, WANTED)[rows]) == pytest.approx(sacrebleu.corpus_chrf(ours, [true]).score)
    errors, words = word_errors(WRITTEN, WANTED)[rows].sum(axis=0)
    assert errors / words == pytest.approx(jiwer.wer(true, ours))
    assert equal(WRITTEN, WANTED).tolist() == [0, 1, 0, 0, 0]


def test_batches_with_and_without_targets(tmp_path, writer, parts):
    task = read(tmp_path, writer, {**parts, "unlabelled": [{"source": one} for one in texts(9, 4)]}, "loss")
    check_batches(task, writer)
    assert task.forward(writer, task.unlabelled()[0]).shape == (3, 97)  # the first token of each


def test_a_model_without_a_decoder(tmp_path, parts):
    with pytest.raises(TaskError, match="needs a model with an encoder and a decoder, which BertModel is not"):
        read_task(task_file(tmp_path, KIND, parts), model("bert", "AutoModel"), tokenizer())
