"""`mha bench`: the benchmark suite on a model and a task of one's own."""

import copy
import os
import shlex
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

HERE = Path(__file__).parents[1]
SUITE = (HERE / "_suite", HERE.parent)  # of a wheel (hatch_build.py), or a checkout
KNOWN_BY = Path("bench", "rundir", "run-directory.toml")
PACKAGES = (  # that the suite can't do without
    *("pytest", "pytest_benchmark", "pandas", "pyarrow", "sklearn", "seaborn", "jinja2", "PIL", "platformdirs", "rich"),
)
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

    OPTIONS are those of `pytest bench`, as --quick or --keep 0.5,0.25. It needs `pip install 'mha[bench]'`.

    \b
    Examples:
      mha bench my-model --task task.toml -o run --quick
      mha bench my-model --task task.toml -o run --keep 0.5,0.25 --criteria taylor,leave_one_out
    """
    root = _suite()
    run = output.absolute()
    file = run.with_name(f"{run.name}-task.py")
    _write(file, _source(model, task, settings))
    report = run / "report"
    again = shlex.join(["mha", "bench", model, "--task", task, "-o", str(output), *settings.words(), *options])
    what = ("--task", f"{file}:task", "--run", str(run), "--command", again, *options)
    settings_of_pytest = ("-c", str(root / "pyproject.toml"), "--rootdir", str(root), "-p", "no:cacheprovider")
    failed = _python("pytest", str(root / "bench"), *settings_of_pytest, *what, root=root, quiet=settings.as_json)
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


def _suite() -> Path:
    """The folder that holds the suite, laid out as a checkout.

    Raises:
        MissingPackageError: a package that the suite needs is not installed, or the suite itself is not.
    """
    for package in PACKAGES:
        needed(package, "bench", "to run the benchmarks")
    for folder in SUITE:
        if (folder / KNOWN_BY).is_file():
            return folder
    raise MissingPackageError(
        f"mha bench needs the benchmark suite, and neither {SUITE[0]} nor {SUITE[1]} holds it: pip install "
        "--force-reinstall 'mha[bench]'",
        name="bench",
    )


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
    """The exit code of a module of the suite in `root`, run by this Python; if quiet, what it prints is dropped.

    Its working directory is the user's, and nothing is imported from there: the user may have a `bench` too.
    """
    note(f"running {module}")
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=False,
        stdout=subprocess.DEVNULL if quiet else None,
        env=os.environ | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
    )
    return process.returncode
