"""Text classification: values beside those of the model called on one text at a time."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mha.tasks import read_task
from mha.values.errors import TaskError
from tests.mha.support.task_files import check_scoring, model, task_file, texts, tokenizer

NAMES = {0: "bad", 1: "middling", 2: "good"}
CLASSIFIER = "AutoModelForSequenceClassification"


def rows(seed, count):
    return [{"text": text, "label": NAMES[number * 7 % 3]} for number, text in enumerate(texts(seed, count))]


@pytest.fixture
def classifier():
    return model("bert", CLASSIFIER, num_labels=3, id2label=NAMES)


@pytest.fixture
def parts():
    return {
        "calibration": rows(1, 11),
        "evaluation": rows(2, 17),
        "unlabelled": [{"text": text, "label": -1} for text in texts(3, 5)],
    }


def alone(classifier, row):
    """The logits of one text, without a batch."""
    with torch.no_grad():
        return classifier(**tokenizer()(row["text"], return_tensors="pt")).logits[0]


@pytest.fixture
def task(tmp_path, classifier, parts):
    return read_task(task_file(tmp_path, "text-classification", parts, top="batch_size = 4"), classifier, tokenizer())


def test_accuracy_is_that_of_one_text_at_a_time(task, classifier, parts):
    expected = [NAMES[int(alone(classifier, row).argmax())] == row["label"] for row in parts["evaluation"]]
    assert task.metric == "accuracy"
    assert 0 < sum(expected) < 17
    assert task.evaluate(task.model()).tolist() == expected
    assert task.aggregate(task.evaluate(task.model())) == sum(expected) / 17


def test_loss_is_the_mean_over_the_batchs_examples(task, classifier, parts):
    batches = task.calibration()
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 3]
    numbers = {name: number for number, name in NAMES.items()}
    expected = [
        F.cross_entropy(alone(classifier, row), torch.tensor(numbers[row["label"]])) for row in parts["calibration"]
    ]
    total = sum(task.loss(classifier, batch) * len(batch["labels"]) for batch in batches)
    assert float(total.detach()) == pytest.approx(float(sum(expected)), rel=1e-9)


def test_batches_are_of_like_length_and_hold_what_the_model_reads(task):
    lengths = [batch["attention_mask"].sum(dim=1).tolist() for batch in task.calibration()]
    assert [length for some in lengths for length in some] == sorted(length for some in lengths for length in some)
    assert set(task.calibration()[0]) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert "labels" not in task.unlabelled()[0]
    assert sum(len(batch["input_ids"]) for batch in task.unlabelled()) == 5


def f1_by_hand(true, given):
    """The mean over classes of the harmonic mean of precision and recall; for classes that occur."""
    means = []
    for name in {*true, *given}:
        right = sum(one == other == name for one, other in zip(true, given, strict=True))
        precision, recall = right / max(given.count(name), 1), right / max(true.count(name), 1)
        means.append(2 * precision * recall / (precision + recall) if right else 0.0)
    return sum(means) / len(means)


def test_macro_f1_is_the_mean_over_classes(tmp_path, classifier, parts):
    file = task_file(tmp_path, "text-classification", parts, top='metric = "macro F1"')
    task = read_task(file, classifier, tokenizer())
    values = task.evaluate(task.model())
    given = [NAMES[int(alone(classifier, row).argmax())] for row in parts["evaluation"]]
    true = [row["label"] for row in parts["evaluation"]]
    assert values.shape == (17, 9)
    assert task.aggregate(values) == pytest.approx(f1_by_hand(true, given))
    again = [3, 3, 5, 8, 16]  # as an interval draws rows anew
    expected = f1_by_hand([true[row] for row in again], [given[row] for row in again])
    assert task.aggregate(values[again]) == pytest.approx(expected)


def test_chance_and_confidences(task, classifier, parts):
    counts = [sum(row["label"] == name for row in parts["evaluation"]) for name in NAMES.values()]
    assert task.chance == max(counts) / 17
    parts_of = task.slices()
    assert {name: int(mask.sum()) for name, mask in parts_of.items()} == {
        f"labelled {name}": count for name, count in zip(NAMES.values(), counts, strict=True)
    }
    assert [row["label"] == "good" for row in parts["evaluation"]] == parts_of["labelled good"].tolist()
    sure = [float(alone(classifier, row).softmax(-1).max()) for row in parts["evaluation"]]
    confidences = task.confidences(classifier)
    np.testing.assert_allclose(confidences[:, 0], sure, rtol=1e-9)
    assert confidences[:, 1].tolist() == task.evaluate(classifier).tolist()


def test_the_model_is_a_copy_in_eval_mode(task, classifier):
    classifier.train()
    copies = task.model(), task.model()
    assert not any(module.training for module in copies[0].modules())
    assert copies[0] is not copies[1]
    assert copies[0] is not classifier
    assert classifier.training


def test_it_is_scored_and_pruned(task):
    check_scoring(task)


def pairs_of(seed):
    both = enumerate(zip(texts(seed, 6), texts(seed + 1, 6), strict=True))
    return [{"premise": one, "hypothesis": other, "label": number % 2} for number, (one, other) in both]


def test_pairs_of_texts_are_read_with_their_types(tmp_path):
    pairs = {part: pairs_of(seed) for part, seed in (("calibration", 1), ("evaluation", 3))}
    classifier = model("bert", CLASSIFIER, num_labels=2)
    task = read_task(task_file(tmp_path, "text-classification", pairs), classifier, tokenizer())
    expected = []
    for row in pairs["evaluation"]:
        inputs = tokenizer()(row["premise"], row["hypothesis"], return_tensors="pt")
        assert inputs["token_type_ids"].sum() > 0
        with torch.no_grad():
            expected.append(float(classifier(**inputs).logits[0].argmax() == row["label"]))
    assert task.evaluate(classifier).tolist() == expected


def test_labels_of_the_data_are_renamed(tmp_path, classifier, parts):
    other = {"bad": "no", "middling": "so-so", "good": "yes"}
    renamed = {part: [{**row, "label": other.get(row.get("label"))} for row in some] for part, some in parts.items()}
    del renamed["unlabelled"]
    more = '[labels]\nno = "bad"\nso-so = 1\nyes = "good"'
    task = read_task(task_file(tmp_path, "text-classification", renamed, more), classifier, tokenizer())
    plain = read_task(task_file(tmp_path, "text-classification", parts), classifier, tokenizer())
    assert task.evaluate(classifier).tolist() == plain.evaluate(classifier).tolist()


@pytest.mark.parametrize(
    ("label", "more", "message"),
    [
        (
            "goood",
            "",
            "row 3 of evaluation.jsonl: unknown label 'goood'; did you mean 'good'? The model has 3: bad (0), middling",
        ),
        (3, "", "row 3 of evaluation.jsonl: unknown label 3; the model has 3: bad (0), middling (1), good (2)"),
        (1.5, "", "row 3 of evaluation.jsonl: unknown label 1.5"),
        ("good", "[labels]\nnice = 'goodd'", "[labels] nice: unknown label 'goodd'; did you mean 'good'?"),
    ],
)
def test_labels_that_do_not_fit_the_model(tmp_path, classifier, parts, label, more, message):
    parts["evaluation"][2]["label"] = label
    if not isinstance(label, str):  # a column has one type
        for row in [*parts["evaluation"][:2], *parts["evaluation"][3:]]:
            row["label"] = 1
    with pytest.raises(TaskError, match=re.escape(message)):
        read_task(task_file(tmp_path, "text-classification", parts, more), classifier, tokenizer())
