"""A first task file, written by looking at a model and at data."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mha.tasks import kinds as _every_kind  # noqa: F401  (they register themselves)
from mha.tasks.files.tables import Table, read_table
from mha.tasks.kinds.base.classification import LABEL_COLUMNS
from mha.tasks.kinds.base.labels import classes_of
from mha.tasks.kinds.base.registry import kinds
from mha.values.errors import TaskError

CLASSES = ("label", "tags")  # what is read of a row and is no text
MANY = 0.5  # of the rows: a column with fewer different values may be one of labels


def describe_task(model: nn.Module, processor: Any, data_file: str | os.PathLike[str]) -> str:
    """A first task file, as TOML: the kind that the model's class tells, and the columns of the data that fit it.

    Without labels, or for a model without a head that a kind is known for, it is about outputs or, where two columns
    hold texts, embeddings. Read it before it is used: what it says is a guess.

    Args:
        model: as `read_task` takes it.
        processor: the model's tokenizer or image processor; by it texts are told from images where the model does not.
        data_file: a CSV, TSV, JSON lines, Parquet or text file, or a folder of images, which is divided into
            calibration (30 %) and evaluation (70 %). Its name is written as it is given.

    Raises:
        TaskError: the file can't be read, or has no column that the kind needs.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("reviews.csv").write_text("sentence,stars\\ngood film,1\\nbad film,0\\nbad plot,0\\nbad end,0\\n")
        >>> import transformers
        >>> sizes = dict(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=16)
        >>> model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))
        >>> print(mha.tasks.describe_task(model, None, "reviews.csv"))
        # one class for each text, or pair of texts
        kind = "text-classification"
        metric = "accuracy"  # or "macro F1"
        batch_size = 32
        <BLANKLINE>
        [data]
        file = "reviews.csv"
        split = { calibration = 0.3, evaluation = 0.7 }
        <BLANKLINE>
        [columns]
        text = "sentence"
        label = "stars"
        <BLANKLINE>
    """
    path = Path(data_file)
    if not path.exists():
        raise TaskError(f"{path}: there is no such file or folder of data")
    table = read_table(path)
    if not table.rows:
        raise TaskError(f"{path}: has no rows")
    name, columns = _kind(model, processor, table)
    usual = kinds()[name].usual_metric(model)
    return _written(name, usual, columns, os.fspath(data_file), _label_lines(model, columns, table))


def _kind(model: nn.Module, processor: Any, table: Table) -> tuple[str, dict[str, str]]:
    """The kind that fits model and data, and what it reads -> the column of the data.

    Raises:
        TaskError: what a row must have is in no column.
    """
    images = "image" in table.columns or hasattr(processor, "image_mean")
    names = [type(model).__name__, *(getattr(getattr(model, "config", None), "architectures", None) or ())]
    fitting = [
        kind for one in names for kind, cls in kinds().items() if cls.architectures and one.endswith(cls.architectures)
    ]
    fallback = ["image-outputs"] if images else ["sentence-embeddings", "outputs"]
    if fitting:  # without labels, its outputs can still be compared, unless it has a decoder that needs targets
        fallback = [] if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else fallback[-1:]
    tried = [*fitting[:1], *fallback]
    for name in tried:
        columns = _columns(name, table)
        if columns is not None:
            return name, columns
    wanted = [word for word in kinds()[tried[-1]].columns if word not in kinds()[tried[-1]].optional]
    raise TaskError(
        f"{table.path}: has no columns for {' and '.join(wanted)}, which {tried[-1]} reads. There are: "
        f"{', '.join(table.columns)}"
    )


def _columns(name: str, table: Table) -> dict[str, str] | None:
    """What a kind reads -> the column of the data: by its usual names, then by what columns hold. None if one lacks."""
    kind = kinds()[name]
    found: dict[str, str] = {}
    for word, usual in kind.columns.items():
        free = [column for column in table.columns if column not in found.values()]
        named = next((column for column in usual if column in free), None)
        column = named if named is not None or word in kind.optional else _by_content(word, free, table)
        if column is not None:
            found[word] = column
        elif word not in kind.optional:
            return None
    return found


def _by_content(word: str, free: Sequence[str], table: Table) -> str | None:
    """The column, of those that are free, which holds classes, or the longest texts; None where none does."""
    values = {column: [row[column] for row in table.rows] for column in free}
    if word in CLASSES:
        counts = {
            column: len({str(one) for one in some}) for column, some in values.items() if column not in LABEL_COLUMNS
        }
        few = [column for column, count in counts.items() if count <= max(2, MANY * len(table.rows))]
        return min(few, key=counts.__getitem__, default=None)
    texts = {
        column: sum(map(len, some)) for column, some in values.items() if all(isinstance(one, str) for one in some)
    }
    texts = {column: size for column, size in texts.items() if not _looks_like_classes(values[column])}
    return max(texts, key=texts.__getitem__, default=None)


def _looks_like_classes(values: Sequence[str]) -> bool:
    """Whether these are single words of which many are equal."""
    return len(set(values)) <= MANY * len(values) and not any(" " in value for value in values)


def _label_lines(model: nn.Module, columns: Mapping[str, str], table: Table) -> list[str]:
    """The table [labels], where the data's labels are none that the model knows; else nothing."""
    classes = classes_of(getattr(model, "config", None))
    if "label" not in columns or not classes:
        return []
    labels = sorted({str(row[columns["label"]]) for row in table.rows})
    numbers = {str(number) for number in classes.values()}
    if all(label in classes or label in numbers for label in labels) or len(labels) > len(classes):
        return []
    lines = [f"{_quoted(label)} = {number}" for number, label in enumerate(labels)]
    return ["", f"[labels]  # a guess: the model's are {', '.join(list(classes)[:5])}", *lines]


def _written(name: str, metric: str, columns: Mapping[str, str], data: str, labels: Sequence[str]) -> str:
    """The file's text."""
    kind = kinds()[name]
    others = ", ".join(_quoted(name) for name in kind.metrics if name != metric)
    options = [f"{key} = {_quoted(value)}" for key, value in kind.kind_options.items()]
    lines = [
        f"# {kind.about}",
        f"kind = {_quoted(name)}",
        f"metric = {_quoted(metric)}" + (f"  # or {others}" if others else ""),
        "batch_size = 32",
        "",
        "[data]",
        f"file = {_quoted(data)}",
        "split = { calibration = 0.3, evaluation = 0.7 }",
        "",
        "[columns]",
        *(f"{word} = {_quoted(column)}" for word, column in columns.items()),
        *(["", "[options]", *options] if options else []),
        *labels,
    ]
    return "\n".join(lines) + "\n"


def _quoted(value: Any) -> str:
    """A value as TOML has it; texts, numbers and truths are written as in JSON."""
    return json.dumps(value, ensure_ascii=False)
