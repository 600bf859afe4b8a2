"""What an object must be to be taken for a task."""

import re

import pytest

from mha.tasks.base.objects import task_object
from mha.values.errors import TaskError

HAS = "name = 'mine'; metric = 'm'; higher_is_better = True; chance = 0.0"
DOES = ("model", "calibration", "loss", "forward", "evaluate", "aggregate", "example")
WHOLE = f"class Mine:\n    {HAS}\n" + "".join(f"    def {name}(self): pass\n" for name in DOES)


@pytest.fixture
def read(tmp_path):
    """Write a file named mine.py, and read an object of it."""

    def read(code, name="task"):
        (tmp_path / "mine.py").write_text(code)
        return task_object(f"{tmp_path}/mine.py:{name}")

    return read


def test_it_is_the_object_itself(read):
    task = read(WHOLE + "task = Mine()")
    assert task.name == "mine"
    assert type(task).__name__ == "Mine"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("task = 3", "lacks name, metric, higher_is_better, chance, model, calibration, loss, forward, evaluate"),
        (WHOLE + "task = Mine", "is a class; name an object, as task = Mine()"),
        (WHOLE + "other = Mine()", "mine.py has no 'task'; it has other"),
        (WHOLE + "task = Mine(); task.name = 'A b'", "is named 'A b'; names stand in file names"),
        (WHOLE + "task = Mine(); task.name = 'attention'", "('attention' is taken by the bare layer)"),
        ("1 / 0", "importing it raised ZeroDivisionError: division by zero"),
        ("def", "importing it raised SyntaxError: "),
    ],
)
def test_what_is_refused(read, code, message):
    with pytest.raises(TaskError, match=re.escape(message)):
        read(code)


@pytest.mark.parametrize("word", ["mine.txt:task", "mine.py:", "mine.py:my task", "mine.py"])
def test_words_that_name_no_object(word):
    with pytest.raises(TaskError, match=r"expected path\.py:name"):
        task_object(word)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TaskError, match=r"there is no file .*none\.py"):
        task_object(f"{tmp_path}/none.py:task")
