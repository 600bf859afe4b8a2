"""`mha bench`: the benchmark suite on a model and a task of one's own."""

import copy
import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import click

from mha.cli.models import FUNCTION, read_model
from mha.cli.settings import Settings, note, with_settings
from mha.cli.tasks import read_task
from mha.tasks import Task
from mha.values.atomic_files import appears_whole
from mha.values.errors import MhaError, MissingPackageError, OverlapWarning
from mha.values.optional_packages import needed

PACKAGES = ("pytest", "pytest_benchmark", "pandas", "seaborn", "jinja2")  # that the suite can't do without
FILE = '''"""The task of a run, as `mha bench` wrote it; a run that goes on reads it again."""

from mha.cli.bench import task_of

task = task_of({model!r}, {task!r}, device={device!r}, dtype={dtype!r}, trust_remote_code={trusted!r})
'''


@click.command(
    short_help="Measure every plan of a model, with a report.", context_settings={"ignore_unknown_options": True}
)
@click.argument("model")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--task", required=True, metavar="TASK", help="What the model is for.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Run directory; goes on in one.")
@with_settings
def bench(model: str, options: Sequence[str], task: str, output: Path, settings: Settings) -> None:
    """Measure every plan of MODEL: criteria × kept fractions, accuracy and latency, with a report at the end.

    OPTIONS are those of `pytest bench`, as --quick or --keep 0.5,0.25. It needs a checkout of the project, installed
    with `pip install -e '.[bench]'`: the suite is not part of the wheel.

    \b
    Examples:
      mha bench my-model --task task.toml -o run --quick
      mha bench my-model --task task.toml -o run --keep 0.5,0.25 --criteria taylor,leave_one_out
    """
    root = _checkout()
    run = output.absolute()
    file = run.with_name(f"{run.name}-task.py")
    _write(file, _source(model, task, settings))
    report = run / "report"
    pytest = ("pytest", "bench", "--task", f"{file}:task", "--run", str(run), *options)
    failed = _python(*pytest, root=root, quiet=settings.as_json)
    if (run / "environment.json").is_file():
        _python("reports", str(run), "-o", str(report), root=root, quiet=True)
    if failed:
        raise MhaError(f"the benchmarks ended with pytest's exit code {failed}; the same command goes on from there")
    settings.tell(f"The report: {report / 'index.html'}", {"run": str(run), "report": str(report / "index.html")})


def task_of(model: str, task: str, *, device: str | None, dtype: str | None, trust_remote_code: bool) -> Task:
    """The task of a run, with the model that the command line of `mha bench` named in place of the task's own."""
    loaded = read_model(model, Settings(device, dtype, trust_remote_code))
    with warnings.catch_warnings():
        warnings.simplefilter("default", OverlapWarning)  # pytest, which runs this, would make an error of it
        chosen: Any = read_task(task, loaded)
    chosen.model = lambda: copy.deepcopy(loaded.model)
    return cast(Task, chosen)


def _checkout() -> Path:
    """The checkout that the suite is in.

    Raises:
        MissingPackageError: there is none, or a package that the suite needs is not installed.
    """
    spec = importlib.util.find_spec("bench")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    if folder is None or not (folder / "rundir" / "run-directory.toml").is_file():
        raise MissingPackageError(
            "mha bench needs the benchmark suite, which is not part of the wheel: in a checkout of the project, "
            "pip install -e '.[bench]'",
            name="bench",
        )
    for package in PACKAGES:
        needed(package, "bench", "to run the benchmarks")
    return folder.parent


def _source(model: str, task: str, settings: Settings) -> str:
    """The text of a file whose object `task` is this task of this model; paths in it are absolute."""
    return FILE.format(
        model=_absolute(model),
        task=_absolute(task),
        device=settings.device,
        dtype=settings.dtype,
        trusted=settings.trust_remote_code,
    )


def _absolute(text: str) -> str:
    """A path, or the path in path.py:name, as absolute; a name on the hub as it is."""
    if (function := FUNCTION.fullmatch(text)) is not None:
        return f"{Path(function[1]).absolute()}:{function[2]}"
    return str(Path(text).absolute()) if Path(text).exists() else text


def _write(path: Path, text: str) -> None:
    """Write the task's file, unless it is there already.

    Raises:
        MhaError: another is.
    """
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise MhaError(f"{path} is the task of another run; give another -o")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with appears_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _python(module: str, *arguments: str, root: Path, quiet: bool) -> int:
    """The exit code of a module that is run by this Python in the checkout; if quiet, what it prints is dropped."""
    note(f"running {module}")
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=root, check=False, stdout=subprocess.DEVNULL if quiet else None).returncode
