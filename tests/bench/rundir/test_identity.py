"""What a task consists of: whatever of it changes, its identity changes, and says what it was."""

import importlib
import sys

import pytest

from bench.rundir.identity import identity
from bench.settings.task_option import chosen_tasks
from bench.tasks.digits import Digits, DigitsSettings

LIBRARY = """
import os
from dataclasses import dataclass
import numpy as np
from helpers import scale
from mha.tasks import Task

STEPS = int(os.environ.get("STEPS", 7))

@dataclass
class Mine(Task):
    calib: int = 16
    names: tuple = ()
    made: object = None
    name = "mine"
    metric = "accuracy"

    def evaluate(self, model):
        from deep.inner import late
        return late()
""" + "\n".join(f"    def {name}(self, *_): pass" for name in ("model", "calibration", "loss", "forward", "example"))
FILES = {
    "library.py": LIBRARY,
    "helpers.py": "from deep import other\nscale = 2\n",
    "deep/__init__.py": "",
    "deep/inner.py": "from .other import value\nfrom ..helpers import scale\ndef late():\n    return value\n",
    "deep/other.py": "value = 1\n",
    "unrelated.py": "",
    "mine.py": "from library import Mine\ntask = Mine()\n",
}


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The identity of the task in mine.py, whose folder has these files."""
    for number in range(9):
        (tmp_path / str(number)).mkdir()
    folders = iter(tmp_path / str(number) for number in range(9))

    def identify(**changed):
        folder = next(folders)  # a new one each time: what Python has compiled counts by the second
        for name, text in (FILES | {name.replace("__", "/") + ".py": text for name, text in changed.items()}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            importlib.invalidate_caches()
            before = set(sys.modules)
            ((task, file),) = chosen_tasks([f"{folder / 'mine.py'}:task"])
            try:
                return identity(task, file)
            finally:
                for name in set(sys.modules) - before:
                    del sys.modules[name]

    return identify


def changed(one, other):
    return {name for name in {**one["parts"], **other["parts"]} if one["parts"].get(name) != other["parts"].get(name)}


def test_its_parts(told):
    found = told()
    files = {name.removeprefix("file ") for name in found["parts"] if name.startswith("file")}
    assert files == {"mine.py", "library.py", "helpers", "deep", "deep.inner", "other"}
    own = {"class", "attribute calib", "attribute names", "attribute made", "STEPS in library.py", "package numpy"}
    assert own <= set(found["parts"])
    assert not [name for name in found["parts"] if "unrelated" in name]
    assert (len(found["source"]), found["uncomparable"]) == (64, [])
    assert told() == found, "in another folder"


SET = "from library import Mine\ntask = Mine({})\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"mine": SET.format("calib=64")}, {"file mine.py", "attribute calib"}),
        ({"mine": SET.format("names=('a',)")}, {"file mine.py", "attribute names"}),
        ({"mine": SET.format("made=lambda x: x")}, {"file mine.py", "attribute made"}),
        ({"mine": FILES["mine.py"] + "task.more = 1\n"}, {"file mine.py", "attribute more"}),
        ({"mine": FILES["mine.py"] + "Mine.batch_size = 7\n"}, {"file mine.py", "class"}),
        (
            {"library": LIBRARY.replace("calib: int = 16", "calib: int = 17")},
            {"file library.py", "attribute calib", "class"},
        ),
        ({"library": LIBRARY + "\n# more"}, {"file library.py"}),
        ({"helpers": "scale = 3\n"}, None),
        ({"deep__other": "value = 2\n"}, None),
        ({"deep__inner": "def late():\n    return 3\n"}, None),
    ],
)
def test_whatever_changes_is_named(told, files, expected):
    one, other = told(), told(**files)
    assert one["source"] != other["source"]
    assert changed(one, other) == expected if expected else changed(one, other)
    assert changed(one, told()) == set()


def test_constants_that_the_environment_has_a_say_in(told, monkeypatch):
    one = told()
    monkeypatch.setenv("STEPS", "8")
    assert changed(one, told()) == {"STEPS in library.py"}


def test_what_cannot_be_compared_is_said(told):
    found = told(mine=SET.format("made=(x for x in ())"))
    assert found["source"] is None
    assert found["uncomparable"] == ["attribute made: a generator, whose contents can't be read"]


def test_reference_tasks_are_their_file_and_their_settings():
    one, same, other = (identity(Digits(settings)) for settings in (None, DigitsSettings(), DigitsSettings(seed=1)))
    assert one == same
    assert changed(one, other) == {"attribute settings"}
    assert {"file digits.py", "package torch"} <= set(one["parts"])


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        code = (
            f"from tests.bench.tiny_task import TinyTask\n\nclass Own(TinyTask):\n    name = {name!r}\n\ntask = Own()\n"
        )
        (tmp_path / name / "task.py").write_text(code)
    found = chosen_tasks([f"{tmp_path / name / 'task.py'}:task" for name in ("one", "other")])
    files = [sys.modules[type(task).__module__].__file__ for task, _ in found]
    assert files == [str(tmp_path / name / "task.py") for name in ("one", "other")]
    assert changed(*(identity(*each) for each in found)) >= {"file task.py", "class"}
