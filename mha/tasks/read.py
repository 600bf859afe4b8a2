"""Tasks from files: a TOML file about a model that is there already, or an object in a Python file."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from torch import nn

from mha.tasks import kinds as _every_kind  # noqa: F401  (they register themselves)
from mha.tasks.base.objects import task_object
from mha.tasks.base.protocol import Task
from mha.tasks.files.settings import Data, read_settings
from mha.tasks.kinds.base.registry import kinds
from mha.values.errors import TaskError
from mha.values.unknown_words import unknown


def read_task(
    path: str | os.PathLike[str], model: nn.Module | None, processor: Any = None, *, name: str | None = None
) -> Task:
    """The task that a file describes: its data, and how the model is fed and judged.

    Data are read at once, from local files, by the `datasets` library; no code that comes with data or models runs.
    docs/tasks.md says what a task's file may say.

    Args:
        path: a TOML file; or path.py:name, an object in a Python file that has what `mha.tasks.Task` asks for. That
            object is returned as it is, with the model that it brings.
        model: the trained model, as transformers makes it. The task keeps it and never changes it; each call of its
            `model()` makes a copy in eval mode.
        processor: the model's tokenizer, or its image processor.
        name: the task's name, in place of what the TOML file says.

    Raises:
        TaskError: the file can't be read, or says what does not exist or does not fit the data or the model;
            calibration and evaluation share examples; texts are longer than the model takes; a package is missing.

    Example:
        >>> from pathlib import Path
        >>> words = "good bad film plot [PAD] [UNK] [CLS] [SEP]".split()
        >>> _ = Path("vocab.txt").write_text("\\n".join(words))
        >>> _ = Path("train.csv").write_text("text,label\\ngood film,1\\nbad film,0\\n")
        >>> _ = Path("test.csv").write_text("text,label\\ngood plot,1\\nbad plot,0\\nbad bad plot,0\\n")
        >>> _ = Path("task.toml").write_text('''
        ... kind = "text-classification"
        ... [data]
        ... calibration = "train.csv"
        ... evaluation = "test.csv"
        ... ''')
        >>> import transformers
        >>> sizes = dict(vocab_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=16)
        >>> model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))
        >>> task = mha.tasks.read_task("task.toml", model, transformers.BertTokenizer("vocab.txt"))
        >>> task.name, task.metric, task.evaluate(task.model()).shape
        ('task', 'accuracy', (3,))
        >>> scores = mha.score(task.model(), task.calibration(), task.loss)
        >>> len(scores)
        2
    """
    word = os.fspath(path)
    if re.search(r"\.py(:\w*)?$", word):
        return task_object(word)
    settings = read_settings(Path(word), name)
    if settings.kind not in kinds():
        raise TaskError(f"{word}: {unknown('kind', settings.kind, kinds())}")
    kind = kinds()[settings.kind]
    if model is None:
        raise TaskError(
            f"{word}: a task of a TOML file needs the model that it is about; give it as the second argument"
        )
    return kind(model, processor, dataclasses.replace(settings, data=_with_unit(settings.data, kind.unit)))


def _with_unit(data: Data, usual: str) -> Data:
    """The data with what a row of plain text is; a document that is divided is divided by paragraphs."""
    divided = "paragraph" if usual == "document" and data.file is not None else usual
    return dataclasses.replace(data, unit=data.unit or divided)
