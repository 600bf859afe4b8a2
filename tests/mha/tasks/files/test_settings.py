"""What a task's file may say, and what is said of what it may not."""

import re

import pytest

from mha.tasks.files.settings import check_options, read_settings
from mha.values.errors import TaskError

FILES = 'calibration = "a.csv"\nevaluation = "b.csv"\n'
PLAIN = f'kind = "outputs"\n[data]\n{FILES}'


@pytest.fixture
def read(tmp_path):
    """Write a file named "My task.toml", with two files of data beside it, and read it."""
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()

    def read(text, **options):
        (tmp_path / "My task.toml").write_text(text)
        return read_settings(tmp_path / "My task.toml", **options)

    return read


def test_what_is_usual(read, tmp_path):
    settings = read(PLAIN)
    assert (settings.kind, settings.name, settings.metric) == ("outputs", "my-task", None)
    assert (settings.batch_size, settings.max_length, settings.truncate) == (32, None, False)
    assert (settings.overlap, settings.seed) == ("error", 0)
    assert settings.data.files == {"calibration": tmp_path / "a.csv", "evaluation": tmp_path / "b.csv"}
    assert settings.data.file is None


def test_everything(read, tmp_path):
    settings = read(
        'kind = "k"\nname = "other"\nmetric = "m"\nbatch_size = 3\nmax_length = 7\ntruncate = true\noverlap = "drop"\n'
        'seed = 5\n[data]\nfile = "a.csv"\nsplit = { calibration = 0.25, evaluation = 0.5 }\nunit = "document"\n'
        '[columns]\ntext = "t"\n[labels]\nyes = 1\n[limits]\nevaluation = 11\n[options]\nstride = 2\n'
    )
    assert (settings.name, settings.metric, settings.batch_size, settings.max_length) == ("other", "m", 3, 7)
    assert (settings.truncate, settings.overlap, settings.seed) == (True, "drop", 5)
    assert settings.data.file == tmp_path / "a.csv"
    assert settings.data.split == {"calibration": 0.25, "evaluation": 0.5}
    assert settings.data.unit == "document"
    assert (settings.columns, settings.labels) == ({"text": "t"}, {"yes": 1})
    assert (settings.limits, settings.options) == ({"evaluation": 11}, {"stride": 2})


def test_a_name_that_is_given_counts(read):
    assert read('name = "other"\n' + PLAIN, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind = "outputs"\nbatch_size = \n', "not TOML: Invalid value (at line 2, column 14)"),
        ('kin = "outputs"\n', "unknown key 'kin'; did you mean 'kind'? There are: kind, name, metric"),
        ("seed = 1\n", "says no kind; begin with a line as kind ="),
        ('batch_size = "3"\n' + PLAIN, "batch_size = '3': expected a whole number"),
        ("batch_size = true\n" + PLAIN, "batch_size = True: expected a whole number"),
        ("batch_size = 0\n" + PLAIN, "batch_size is 0; expected a whole number from 1 up"),
        ("truncate = 1\n" + PLAIN, "truncate = 1: expected true or false"),
        ('overlap = "dropp"\n' + PLAIN, "unknown overlap 'dropp'; did you mean 'drop'? There are: error, drop"),
        ('name = "A b"\n' + PLAIN, "is named 'A b'; names stand in file names: lower-case letters, digits"),
        ('name = "attention"\n' + PLAIN, "('attention' is taken by the bare layer)"),
        (PLAIN + "[limits]\nevaluation = 0\n", "[limits] {'evaluation': 0}: expected whole numbers from 1 up"),
        (PLAIN + "[limits]\neval = 3\n", "[limits] unknown key 'eval'; did you mean 'evaluation'?"),
        (PLAIN + "[columns]\ntext = 3\n", "[columns] text = 3: expected a text"),
        ('kind = "outputs"\n', "[data] has no calibration and no evaluation; name a file for calibration and one for"),
        (PLAIN.replace("evaluation", "evaluate"), "[data] unknown key 'evaluate'; did you mean 'evaluation'?"),
        (PLAIN.replace("b.csv", "c.csv"), "files are looked for beside the task's file"),
        (PLAIN + "split = { calibration = 0.5 }\n", "[data] split divides one file: name it as file"),
        (PLAIN + 'file = "a.csv"\n', "a file that is divided and files by part (calibration, evaluation); give either"),
        (PLAIN + 'unit = "lines"\n', "unknown unit 'lines'; did you mean 'line'?"),
    ],
)
def test_what_is_wrong(read, text, message):
    with pytest.raises(TaskError, match=f"My task.toml.*{re.escape(message)}"):
        read(text)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("{ calibration = 0.5, evaluation = 0.6 }", "expected shares above 0, together at most 1"),
        ("{ calibration = 0.5, evaluation = 0 }", "expected shares above 0, together at most 1"),
        ("{ evaluation = 0.6 }", "of calibration and of evaluation, as split = {"),
        ("{ calibration = 0.5, validation = 0.3 }", "unknown split 'validation'; did you mean 'evaluation'?"),
        ("{ calibration = 0.5, evaluation = '1' }", "[data.split] evaluation = '1': expected a number"),
    ],
)
def test_wrong_shares(read, split, message):
    with pytest.raises(TaskError, match=re.escape(message)):
        read(f'kind = "outputs"\n[data]\nfile = "a.csv"\nsplit = {split}\n')


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TaskError, match=r"none.toml: can't be read \(No such file or directory\)"):
        read_settings(tmp_path / "none.toml")


def test_options_of_a_kind(read):
    settings = read(PLAIN + "[options]\nshare = 1\n")
    assert check_options(settings, {"share": 0.5, "word": "a"}) == {"share": 1, "word": "a"}
    with pytest.raises(TaskError, match=r"\[options\] unknown key 'share'; There are: none"):
        check_options(settings, {})
    with pytest.raises(TaskError, match=r"\[options\] share = 1: expected a text"):
        check_options(settings, {"share": "half"})
