"""Token classification: tags at the first tokens of words, spans, and F1 beside a count by hand."""

import pytest
import torch
import torch.nn.functional as F

from mha.tasks import read_task
from mha.tasks.kinds.token_classification import at_first_tokens, spans
from mha.values.errors import TaskError
from tests.mha.support.task_files import check_scoring, model, task_file, texts, tokenizer

TAGS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
KIND = "token-classification"


def rows(seed, count):
    words = [text.split() for text in texts(seed, count)]
    return [
        {"tokens": own, "ner_tags": [TAGS[(3 * place + row) % 5] for place in range(len(own))]}
        for row, own in enumerate(words)
    ]


@pytest.fixture
def tagger():
    return model("bert", "AutoModelForTokenClassification", num_labels=5, id2label=TAGS)


def alone(tagger, row):
    """The logits of each word of one row: every word is one token here, after [CLS]."""
    with torch.no_grad():
        return tagger(**tokenizer()(" ".join(row["tokens"]), return_tensors="pt")).logits[0, 1:-1]


@pytest.fixture
def parts(tagger):
    """The tags of every second row of evaluation are those that the model gives."""
    parts = {"calibration": rows(1, 7), "evaluation": rows(2, 13)}
    for row in parts["evaluation"][::2]:
        row["ner_tags"] = [TAGS[number] for number in alone(tagger, row).argmax(-1).tolist()]
    return parts


def test_f1_is_counted_over_spans(tmp_path, tagger, parts):
    task = read_task(task_file(tmp_path, KIND, parts, top="batch_size = 3"), tagger, tokenizer())
    expected = []
    for row in parts["evaluation"]:
        found = set(spans([TAGS[number] for number in alone(tagger, row).argmax(-1).tolist()]))
        wanted = set(spans(row["ner_tags"]))
        expected.append([len(found & wanted), len(found), len(wanted)])
    values = task.evaluate(tagger)
    assert task.metric == "F1"
    assert values.tolist() == expected
    right, found, wanted = map(sum, zip(*expected, strict=True))
    assert 0 < right < wanted
    precision, recall = right / found, right / wanted
    assert task.aggregate(values) == pytest.approx(2 * precision * recall / (precision + recall))


def test_accuracy_and_loss_are_over_words(tmp_path, tagger, parts):
    task = read_task(task_file(tmp_path, KIND, parts, top='metric = "accuracy"'), tagger, tokenizer())
    numbers = {name: number for number, name in TAGS.items()}
    expected = []
    for row in parts["evaluation"]:
        given = [TAGS[number] for number in alone(tagger, row).argmax(-1).tolist()]
        right = sum(ours == true for ours, true in zip(given, row["ner_tags"], strict=True))
        expected.append([right, len(given)])
    assert task.evaluate(tagger).tolist() == expected
    losses = [
        F.cross_entropy(alone(tagger, row), torch.tensor([numbers[tag] for tag in row["ner_tags"]]))
        for row in parts["calibration"]
    ]
    (batch,) = task.calibration()
    assert float(task.loss(tagger, batch).detach()) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-9)


def test_words_and_tags_may_be_texts(tmp_path, tagger, parts):
    lists = read_task(task_file(tmp_path, KIND, parts), tagger, tokenizer())
    plain = {
        part: [{"words": " ".join(row["tokens"]), "tags": " ".join(row["ner_tags"])} for row in some]
        for part, some in parts.items()
    }
    text = read_task(task_file(tmp_path, KIND, plain), tagger, tokenizer())
    assert text.evaluate(tagger).tolist() == lists.evaluate(tagger).tolist()


def test_it_is_scored_and_pruned(tmp_path, tagger, parts):
    check_scoring(read_task(task_file(tmp_path, KIND, parts), tagger, tokenizer()))


def test_another_number_of_tags_than_words(tmp_path, tagger, parts):
    parts["evaluation"][3]["ner_tags"].append("O")
    words = len(parts["evaluation"][3]["tokens"])
    with pytest.raises(
        TaskError, match=f"row 4 of evaluation.jsonl has {words} words and {words + 1} tags; expected one tag"
    ):
        read_task(task_file(tmp_path, KIND, parts), tagger, tokenizer())


def test_an_unknown_tag(tmp_path, tagger, parts):
    parts["calibration"][2]["ner_tags"][0] = "B-PERS"
    with pytest.raises(TaskError, match=r"row 3 of calibration\.jsonl: unknown label 'B-PERS'; did you mean 'B-PER'\?"):
        read_task(task_file(tmp_path, KIND, parts), tagger, tokenizer())


def test_a_word_is_judged_at_its_first_token():
    assert at_first_tokens([None, 0, 0, 1, 2, 2, 2, None], [7, 8, 9]) == [-100, 7, -100, 8, 9, -100, -100, -100]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-A I-A O", [("A", 1, 2)]),
        ("B-A B-A I-B", [("A", 0, 0), ("A", 1, 1), ("B", 2, 2)]),
        ("I-A I-A B-A", [("A", 0, 1), ("A", 2, 2)]),
        ("O O", []),
    ],
)
def test_spans(tags, expected):
    assert list(spans(tags.split())) == expected
