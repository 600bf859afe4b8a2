"""The commands as a whole: examples of help and of docs run, errors are messages, and imports come late."""

import re
import runpy
import shlex
import signal
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import mha
from mha.cli import bench as bench_command
from mha.cli.main import command, main
from mha.cli.settings import lines_of
from mha.values.errors import MissingPackageError
from mha.values.optional_packages import needed
from tests.pages import steps

ROOT = Path(__file__).parents[3]
COMMANDS = {name: part for name, part in command.commands.items() if name != "task"} | {
    f"task {name}": part for name, part in command.commands["task"].commands.items()
}
FAST = {"prune": ["--seconds", "0.05"], "check": ["--seconds", "0.05"]}
LATE = {"click", "matplotlib", "pandas", "pytest", "scipy", "seaborn", "sklearn", "torch", "tqdm", "transformers"}


def examples(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if re.match(r"    +mha |  mha ", line)]


def helps() -> dict[str, str]:
    return {name: part.help or "" for name, part in {"": command, **COMMANDS}.items()}


def of_page(name: str) -> str:
    """The blocks of code of a page, of the section about the command line in the README."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return text if name != "README.md" else text.split("## From the command line")[1].split("\n## ")[0]


EXAMPLES = sorted({line for text in helps().values() for line in examples(text)})
DOCUMENTED = [line for page in ("README.md", "docs/command-line.md") for line in examples(of_page(page))]
OF_THE_TUTORIAL = [
    line.replace("minilm", "my-model").replace("pairs.jsonl", "reviews.csv")
    for step in steps("docs/tutorial.md")
    if step.kind == "bash"
    for line in step.text.splitlines()
]


@pytest.fixture
def like_a_reader(run, here, costs, short_ladder, monkeypatch):  # noqa: ARG001
    """Run a line as it stands, less the time that timing and training may take; its output makes room for itself."""
    task = mha.tasks
    reading = getattr(task, "read_task")  # noqa: B009
    (here / "task.toml").write_text("")
    (here / "reviews.csv").write_text("text,label\n")
    monkeypatch.setattr(
        task, "read_task", lambda text, *rest: reading(text.replace("task.toml", "task.py:task"), *rest)
    )
    monkeypatch.setattr(task, "describe_task", lambda *_: 'kind = "a"\n', raising=False)
    monkeypatch.setattr(bench_command, "_python", lambda *_, **__: 0)

    def execute(line: str):
        words = [word.replace("1min", "0.2s") for word in shlex.split(line)[1:]]
        for flag, place in pairwise(words):
            if flag in ("-o", "--output"):
                (here / place).unlink(missing_ok=True)
        return run(*words, *FAST.get(words[0], []))

    return execute


@pytest.mark.parametrize("line", sorted({*EXAMPLES, *DOCUMENTED, *OF_THE_TUTORIAL}))
def test_examples_run(like_a_reader, line):
    ran = like_a_reader(line)
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_examples_in_its_help_and_on_the_page(name, run):
    ran = run(*name.split(), "--help")
    assert ran.code == 0
    assert f"mha {name} my-model" in ran.out
    assert any(line.startswith(f"mha {name} ") for line in DOCUMENTED)
    assert f"mha {name}" in (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_explained(name):
    options = [part for part in COMMANDS[name].params if isinstance(part, click.Option)]
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert [option.name for option in options if f"`{option.opts[-1]}`" not in page] == []


def test_wrong_commands_say_the_nearest(run):
    ran = run("prun")
    assert ran.code == 2
    assert "No such command 'prun'. Did you mean 'prune'?" in ran.err


def test_version(run):
    assert run("--version").out.strip() == mha.__version__


def test_a_task_is_written_once(like_a_reader, run, here):
    ran = like_a_reader("mha task init my-model reviews.csv -o first.toml")
    assert ran.out == "Written to first.toml. Look it over, then: mha score my-model --task first.toml\n"
    assert (here / "first.toml").read_text() == 'kind = "a"\n'
    ran = run("task", "init", "my-model", "reviews.csv", "-o", "first.toml")
    assert ran.code == 1
    assert "first.toml exists" in ran.err
    assert like_a_reader("mha task init my-model reviews.csv").out == 'kind = "a"\n'


def test_bench_runs_the_suite_on_a_file_that_it_writes(run, here, monkeypatch):
    calls = []
    monkeypatch.setattr(bench_command, "_python", lambda *words, **_: calls.append(words) or 0)
    line = (
        "bench",
        "my-model",
        "--task",
        "task.py:task",
        "-o",
        "run",
        "--dtype",
        "float64",
        "--quick",
        "--keep",
        "0.5",
    )
    ran = run(*line, "--json")
    assert ran.code == 0, ran.err
    assert ran.document == {"run": str(here / "run"), "report": str(here / "run" / "report" / "index.html")}
    file = here / "run-task.py"
    (words,) = calls
    given = {flag: words[index + 1] for index, flag in enumerate(words) if flag.startswith("-")}
    assert words[:2] == ("pytest", str(ROOT / "bench"))
    assert given["-c"] == str(ROOT / "pyproject.toml")
    assert given["--rootdir"] == str(ROOT)
    assert (given["--task"], given["--run"]) == (f"{file}:task", str(here / "run"))
    assert shlex.split(given["--command"]) == ["mha", *line]
    assert words[-3:] == ("--quick", "--keep", "0.5")
    names = {}
    exec(file.read_text(), names)
    assert names["task"].metric == "accuracy"
    assert type(names["task"].model()).__name__ == "BertForSequenceClassification"  # not the file's own
    assert run("bench", "smaller", "--task", "task.py:task", "-o", "run").code == 1  # the task of another run


def test_bench_runs_the_suite_of_a_wheel_and_nothing_of_the_working_directory(here, monkeypatch, capfd):
    """From where the suite is, though the user has a module of the same name."""
    suite, own = here / "site-packages" / "mha" / "_suite", here / "own"
    for folder, said in ((suite / "bench", "the wheel's"), (own / "bench", "the user's")):
        (folder / "rundir").mkdir(parents=True)
        (folder / "__init__.py").write_text(f"print({said!r})\n")
        (folder / "__main__.py").write_text("import sys; from pathlib import Path; print(Path.cwd(), *sys.argv[1:])\n")
    (suite / bench_command.KNOWN_BY).touch()
    monkeypatch.setattr(bench_command, "SUITE", (suite, here))
    monkeypatch.chdir(own)
    root = bench_command._suite()
    assert root == suite
    assert bench_command._python("bench", "--quick", root=root, quiet=False) == 0
    assert capfd.readouterr().out == f"the wheel's\n{own} --quick\n"


def test_bench_takes_a_task_that_drops_copies(here, monkeypatch):
    """Under pytest warnings are errors; that rows were dropped is told, and is none."""

    def reading(*_):
        warnings.warn("dropped 3 rows", mha.OverlapWarning, stacklevel=2)
        return SimpleNamespace(model=None)

    monkeypatch.setattr(bench_command, "read_task", reading)
    with pytest.warns(mha.OverlapWarning, match="dropped 3 rows"):
        task = bench_command.task_of(
            str(here / "my-model"), "task.toml", device=None, dtype=None, trust_remote_code=False
        )
    assert type(task.model()).__name__ == "BertForSequenceClassification"


def test_bench_names_the_extra_and_a_suite_that_is_not_there(run, here, monkeypatch):
    line = ("bench", "my-model", "--task", "task.py:task", "-o", "run")
    monkeypatch.setattr(bench_command, "SUITE", (here / "a", here / "b"))
    assert f"neither {here / 'a'} nor {here / 'b'} holds it: pip install" in run(*line).err
    monkeypatch.setitem(sys.modules, "pytest_benchmark", None)
    ran = run(*line)
    assert ran.code == 1
    assert "pytest_benchmark is needed to run the benchmarks, and is not installed: pip install 'mha[bench]'" in ran.err
    assert not (here / "run-task.py").exists()


def test_a_package_that_is_missing_is_named_with_what_installs_it():
    with pytest.raises(MissingPackageError, match=r"no_such is needed to draw heads.*pip install 'mha\[plot\]'"):
        needed("no_such", "plot", "to draw heads")
    with pytest.raises(MissingPackageError, match=r"no_such is needed to judge") as caught:
        needed("no_such.metrics", "hf", "to judge")
    assert caught.value.name == "no_such"
    with pytest.raises(ModuleNotFoundError, match=r"'json\.no_such'"):  # the package is there, and broken
        needed("json.no_such", "hf", "to read")
    assert needed("json.decoder", "plot", "to write") is sys.modules["json.decoder"]


def test_numbers_of_a_table_stand_to_the_right():
    assert lines_of([["name", "n"], ["a", "10"], ["bcdefg", "7"]]) == "name     n\na       10\nbcdefg   7"


def test_main_takes_the_arguments_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mha", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.strip() == mha.__version__


def test_the_module_is_the_command(monkeypatch, capsys):
    """An error ends it with its exit code and a message, without a traceback."""
    handled = []
    monkeypatch.setattr(signal, "signal", lambda number, _: handled.append(number))
    monkeypatch.setattr(sys, "argv", ["mha", "heads", "./nowhere"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("mha", run_name="__main__")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "mha: error: there is no ./nowhere\n"
    assert handled == [signal.SIGTERM]


def test_importing_the_library_imports_nothing_else():
    code = "import sys; import mha; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert set(loaded.stdout.split()) & LATE == set()


def test_every_public_name_has_a_home():
    assert sorted([*mha._MODULE_OF, "tasks", "visualize"]) == sorted(mha.__all__)
    assert set(mha.__all__) <= set(dir(mha))
    with pytest.raises(AttributeError, match="module 'mha' has no attribute 'prun'"):
        mha.prun  # noqa: B018
