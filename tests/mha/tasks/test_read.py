"""Tasks from files: what is refused, and by what words."""

import re

import pytest

from mha.tasks import read_task
from mha.tasks.kinds.base.registry import kinds
from mha.values.errors import OverlapWarning, TaskError
from tests.mha.support.task_files import model, task_file, text, texts, tokenizer

KIND = "text-classification"


@pytest.fixture
def classifier():
    return model("bert", "AutoModelForSequenceClassification", num_labels=2)


@pytest.fixture
def parts():
    return {
        part: [{"text": one, "label": number % 2} for number, one in enumerate(texts(seed, 6))]
        for seed, part in ((1, "calibration"), (2, "evaluation"))
    }


def test_the_kinds():
    assert list(kinds()) == [
        "causal-language-modelling",
        "image-classification",
        "image-outputs",
        "masked-language-modelling",
        "outputs",
        "sentence-embeddings",
        "sequence-to-sequence",
        "text-classification",
        "token-classification",
    ]


@pytest.mark.parametrize("name", kinds())
def test_a_kind_says_all_that_it_must(name):
    kind = kinds()[name]
    assert kind.about
    assert kind.metrics
    assert kind.columns
    assert kind.optional | kind.labels <= kind.columns.keys()
    assert set(getattr(kind, "known_by", kind.columns)) <= kind.columns.keys()


@pytest.mark.parametrize(
    ("kind", "top", "more", "message"),
    [
        (
            "text-clasification",
            "",
            "",
            "unknown kind 'text-clasification'; did you mean 'text-classification'? There are: causal-",
        ),
        (
            KIND,
            'metric = "acuracy"',
            "",
            "unknown metric of text-classification 'acuracy'; did you mean 'accuracy'? There are: accuracy, macro F1",
        ),
        (KIND, "", "[options]\nstride = 2", "[options] unknown key 'stride'; There are: none"),
        (KIND, "max_length = 32", "", "max_length is 32, and the model takes 31 tokens; lower it"),
        (
            KIND,
            "max_length = 8",
            "",
            "3 of the 6 texts of calibration have more than 8 tokens, the longest 11 (row 5 of calibration.jsonl): "
            "write truncate = true",
        ),
    ],
)
def test_what_is_wrong(tmp_path, classifier, parts, kind, top, more, message):
    with pytest.raises(TaskError, match=re.escape(message)):
        read_task(task_file(tmp_path, kind, parts, more, top), classifier, tokenizer())


def test_texts_longer_than_the_model_takes(tmp_path, classifier, parts):
    parts["evaluation"] += [{"text": text(77, 40), "label": 0}, {"text": text(78, 31), "label": 1}]
    with pytest.raises(TaskError, match="2 of the 8 texts of evaluation have more than 31 tokens, the longest 42"):
        read_task(task_file(tmp_path, KIND, parts), classifier, tokenizer())
    task = read_task(task_file(tmp_path, KIND, parts, top="truncate = true"), classifier, tokenizer())
    lengths = [len(example["input_ids"]) for example in task.examples["evaluation"]]
    assert lengths[-2:] == [31, 31]
    assert task.evaluate(classifier).shape == (8,)


def test_a_tokenizer_that_is_missing(tmp_path, classifier, parts):
    with pytest.raises(
        TaskError, match=r"text-classification needs the model's tokenizer, got none; save one into the model"
    ):
        read_task(task_file(tmp_path, KIND, parts), classifier)


def test_a_model_that_is_missing(tmp_path, parts):
    with pytest.raises(TaskError, match="needs the model that it is about; give it as the second argument"):
        read_task(task_file(tmp_path, KIND, parts), None, tokenizer())


def test_a_model_that_does_not_classify(tmp_path, parts):
    one = model("bert", "AutoModelForSequenceClassification", num_labels=1)
    with pytest.raises(TaskError, match=r"needs a model with at least 2 classes; its configuration \(id2label\) has 1"):
        read_task(task_file(tmp_path, KIND, parts), one, tokenizer())


def test_near_copies_are_refused_or_dropped(tmp_path, classifier, parts):
    long = text(5, 20)
    parts["evaluation"].append({"text": long, "label": 1})
    parts["calibration"].insert(2, {"text": "W3, " + long.upper(), "label": 1})
    with pytest.raises(
        TaskError,
        match=r'1 of the 7 rows of calibration are copies.*\(row 3 of calibration\.jsonl \("W3, W.*…"\) is eval',
    ):
        read_task(task_file(tmp_path, KIND, parts), classifier, tokenizer())
    with pytest.warns(OverlapWarning, match="dropped 1 rows of calibration"):
        task = read_task(task_file(tmp_path, KIND, parts, top='overlap = "drop"'), classifier, tokenizer())
    assert task.dropped == {"calibration": 1}
    assert sum(len(batch["labels"]) for batch in task.calibration()) == 6


def test_an_object_in_a_file(tmp_path):
    (tmp_path / "mine.py").write_text("from tests.bench.tiny_task import TinyTask\ntask = TinyTask()")
    task = read_task(f"{tmp_path}/mine.py:task", None)
    assert task.name == "tiny"
    with pytest.raises(TaskError, match=r"mine.py has no 'tsk'; it has task"):
        read_task(f"{tmp_path}/mine.py:tsk", None)
    with pytest.raises(TaskError, match=r"expected path.py:name, the file and the name of the task in it"):
        read_task(f"{tmp_path}/mine.py", None)
