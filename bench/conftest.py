"""What happens around the benchmarks: the run directory, the studies, and the table at the end.

Read by pytest only where a benchmark is collected; the options themselves are in bench/options.py.
"""

import sys
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial

import pytest

from bench.environment import environment
from bench.latency import Latencies
from bench.options import Settings, run_directory, settings_of
from bench.rundir import RunDirectory, unfinished
from bench.study import Study
from bench.terminal import summary
from mha.tasks import Task

RUN = pytest.StashKey[RunDirectory]()


def pytest_configure(config: pytest.Config) -> None:
    """Before pytest-benchmark reads its options: one table is enough, and its JSON belongs to the run."""
    config.option.benchmark_quiet = True  # --benchmark-verbose brings its table back
    target, given = run_directory(config) / "benchmarks.json", config.option.benchmark_json
    if given is None or given.absolute() == target.absolute():
        config.option.benchmark_json = unfinished(target)  # it writes in place; renamed when whole


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse wrong options before anything is collected."""
    settings_of(session.config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Make the run directory, once it is known that something will run."""
    if not session.items or session.testsfailed or session.config.option.collectonly:
        return
    settings = settings_of(session.config)
    tasks = {task.name: _describe(task, settings) for task in settings.tasks}
    arguments = session.config.invocation_params.args
    try:
        session.config.stash[RUN] = RunDirectory.create(settings.directory, environment(map(str, arguments)), tasks)
    except OSError as error:
        raise pytest.UsageError(f"--run: {settings.directory} can't be written ({error}); give another") from error


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, object, object]:
    """Assemble the run first of all, so that nothing another plugin raises costs the results."""
    run = session.config.stash.get(RUN, None)
    if run is not None:
        run.assemble()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Not saving anything")  # a selection may time nothing
            return (yield)
    finally:
        if run is not None:
            run.finish(session.config.option.benchmark_json, interrupted=exitstatus == pytest.ExitCode.INTERRUPTED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run is not None:
        terminalreporter.section("heads kept, accuracy, latency")
        for line in summary(run.path):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def settings(pytestconfig: pytest.Config) -> Settings:
    return settings_of(pytestconfig)


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> RunDirectory:
    return pytestconfig.stash[RUN]


@pytest.fixture(scope="session")
def studies(settings: Settings, run: RunDirectory, pytestconfig: pytest.Config) -> Mapping[str, Study]:
    """One for each task, by name."""
    training = partial(_visible, pytestconfig)
    return {task.name: Study(task, training, partial(run.describe_task, task.name)) for task in settings.tasks}


@pytest.fixture(scope="session")
def latencies(settings: Settings) -> Latencies:
    return Latencies(settings.limits)


@contextmanager
def _visible(config: pytest.Config) -> Iterator[None]:
    """Let output through to the terminal: training takes minutes, and shows how many are left."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        yield


def _describe(task: Task, settings: Settings) -> dict[str, object]:
    """What is known about a task before its model is there."""
    docs = sys.modules[type(task).__module__].__doc__ or type(task).__doc__ or ""
    return {
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "chance": task.chance,
        "batch_size": settings.batch(task),
        "description": docs.strip().partition("\n")[0],
    }
