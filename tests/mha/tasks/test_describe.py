"""A first task file fits the model and the data that it was written for: it can be read at once."""

import json

import pytest

from mha.tasks import describe_task, read_task
from mha.values.errors import TaskError
from tests.mha.support.task_files import model, text, texts, tokenizer

MODELS = {
    "text-classification": ("bert", "AutoModelForSequenceClassification"),
    "token-classification": ("bert", "AutoModelForTokenClassification"),
    "masked-language-modelling": ("bert", "AutoModelForMaskedLM"),
    "causal-language-modelling": ("llama", "AutoModelForCausalLM"),
    "sequence-to-sequence": ("t5", "AutoModelForSeq2SeqLM"),
    "sentence-embeddings": ("bert", "AutoModel"),
    "outputs": ("bert", "AutoModel"),
}
ROWS = {
    "text-classification": lambda row: {"id": f"r{row}", "words": text(row, 7), "stars": row % 2},
    "token-classification": lambda row: {"sentence": text(row, 3), "tags": "0 1 0"},
    "masked-language-modelling": lambda row: {"id": f"r{row}", "story": text(row, 9)},
    "causal-language-modelling": lambda row: {"content": text(row, 9)},
    "sequence-to-sequence": lambda row: {"english": text(row, 9), "target": text(100 + row, 4)},
    "sentence-embeddings": lambda row: {"query": text(row, 4), "document": text(100 + row, 9)},
    "outputs": lambda row: {"text": text(row, 4)},
}
COLUMNS = {
    "text-classification": {"text": "words", "label": "stars"},
    "token-classification": {"words": "sentence", "tags": "tags"},
    "masked-language-modelling": {"text": "story"},
    "causal-language-modelling": {"text": "content"},
    "sequence-to-sequence": {"text": "english", "target": "target"},
    "sentence-embeddings": {"text": "query", "positive": "document"},
    "outputs": {"text": "text"},
}


@pytest.mark.parametrize("kind", MODELS)
def test_it_can_be_read_at_once(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    one = model(*MODELS[kind])
    words = tokenizer(model_input_names=["input_ids", "attention_mask"])
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(ROWS[kind](row)) + "\n" for row in range(10)))
    toml = describe_task(one, words, "all.jsonl")
    (tmp_path / "task.toml").write_text(toml)
    task = read_task(tmp_path / "task.toml", one, words)
    assert task.settings.kind == kind
    assert task.settings.columns == COLUMNS[kind]
    assert {part: len(rows) for part, rows in task.rows.items()} == {"calibration": 3, "evaluation": 7}


def test_labels_that_the_model_names_otherwise(tmp_path):
    (tmp_path / "all.csv").write_text("text,label\n" + "".join(f"{one},{'yes' if number % 3 else 'no'}\n" for number, one in enumerate(texts(1, 9))))  # fmt: skip  # noqa: E501
    one = model("bert", "AutoModelForSequenceClassification", id2label={0: "NEG", 1: "POS"})
    toml = describe_task(one, tokenizer(), tmp_path / "all.csv")
    assert toml.endswith('[labels]  # a guess: the model\'s are NEG, POS\n"no" = 0\n"yes" = 1\n')


def test_data_without_labels_make_a_task_of_outputs(tmp_path):
    (tmp_path / "all.txt").write_text("\n".join(texts(1, 5)))
    toml = describe_task(model("bert", "AutoModelForSequenceClassification"), tokenizer(), tmp_path / "all.txt")
    assert 'kind = "outputs"' in toml


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "all.csv: has no rows"),
        ("text\n", "all.csv: has no rows"),
        ("a,b\n1,2\n2,1\n", "all.csv: has no columns for text, which outputs reads. There are: a, b"),
    ],
)
def test_data_that_fit_nothing(tmp_path, content, message):
    (tmp_path / "all.csv").write_text(content)
    with pytest.raises(TaskError, match=message):
        describe_task(model("bert", "AutoModel"), tokenizer(), tmp_path / "all.csv")


def test_data_that_are_not_there(tmp_path):
    with pytest.raises(TaskError, match="there is no such file or folder of data"):
        describe_task(model("bert", "AutoModel"), tokenizer(), tmp_path / "all.csv")
