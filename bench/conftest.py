"""What happens around the benchmarks: the run directory, the experiments, and the table at the end.

Read by pytest only where a benchmark is collected; the options themselves are in bench/settings/options.py.
"""

import re
import shlex
import sys
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest

from bench.measure.environment import environment
from bench.measure.errors import reason
from bench.measure.machine import Watch
from bench.measure.threads import pinned
from bench.models.experiment import Experiment
from bench.models.latency import Latencies
from bench.models.shelf import NO_SHELF, SHELF
from bench.rundir.description import OUT_OF_MEMORY
from bench.rundir.directory import RunDirectory
from bench.rundir.files import numbered, read_json, unfinished
from bench.rundir.identity import identity
from bench.rundir.out_of_memory import give_memory_back, out_of_memory
from bench.rundir.progress import Progress
from bench.rundir.terminal_summary import summary
from bench.settings.options import RunSettings, run_directory, settings_of
from bench.settings.sending import PART
from mha.tasks import Task

RUN = pytest.StashKey[RunDirectory]()
WATCH = pytest.StashKey[Watch]()
PROGRESS = pytest.StashKey[Progress]()
DONE = pytest.StashKey[int]()
CLUSTER = pytest.StashKey[Any]()  # a bench.cluster.session.ClusterSession, where there is one

collect_ignore = ["regress"]  # the gate has its own way to run (bench/regress/__main__.py)


def pytest_configure(config: pytest.Config) -> None:
    """Set pytest-benchmark's options before it reads them: it prints no table, and its JSON goes to the run directory.

    Warnings are no errors here, as they are in the project's tests: the code of a task is the user's.
    """
    config.addinivalue_line("filterwarnings", "default")
    config.option.benchmark_quiet = True  # --benchmark-verbose brings its table back
    target = run_directory(config) / f"{numbered('benchmarks', config.option.process)}.json"
    report = config.option.benchmark_json
    if report is None or report.absolute() == target.absolute():
        config.option.benchmark_json = unfinished(target)  # it writes in place; renamed when whole


def pytest_sessionstart(session: pytest.Session) -> None:
    """Parse the options before anything is collected, so that a wrong one ends pytest by its usage error.

    With --cluster the workers are asked first: what there is to measure is what they have.
    """
    config = session.config
    if config.option.on and not config.option.cluster:
        raise pytest.UsageError("--on says what a worker of --cluster must have; give that, too")
    if config.option.cluster and not config.option.collectonly:
        from bench.cluster.session import ClusterSession

        config.stash[CLUSTER] = cluster = ClusterSession(config, partial(_say, config))
        config.add_cleanup(cluster.close)
    settings_of(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Open the run directory if anything is to be measured, and deselect what was measured there before."""
    if not items or session.testsfailed or config.option.collectonly:
        return
    config.stash[RUN] = run = _opened(config)
    done = [item for item in items if _is_done(item, run)]
    config.stash[DONE] = len(done)
    if done:
        config.hook.pytest_deselected(items=done)
        left = {*items} - {*done}
        items[:] = [item for item in items if item in left]
    if CLUSTER in config.stash:
        config.stash[CLUSTER].check(items)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Lines for the terminal, one each for what there is to say.

    They are: tasks, and dtypes and modes on a device, that the preset would measure and that are left out, with the
    reason; why this run couldn't go on once cut off; and how many cases were measured before.
    """
    settings = settings_of(config)
    left_out = [f"left out: {why}" for why in settings.tasks_left_out.values()]
    left_out += [f"left out: {name} on {device}: {why}" for (device, name), why in settings.left_out.items()]
    done = config.stash.get(DONE, 0)
    there = f"{done} are there already in {run_directory(config)}; {len(items)} to go"
    return [*left_out, *_final(config), *([there] if done else [])]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Check the machine (control workload, load, clock) before the first case, and start the `Progress` of the run.

    With --cluster all cases run elsewhere, and True tells pytest that none is left to run here.
    """
    config, run = session.config, session.config.stash.get(RUN, None)
    if run is not None and session.items and CLUSTER in config.stash:
        _run_elsewhere(session, run)
        return True
    if run is not None and session.items:
        if config.stash.get(PART, True):
            config.stash[WATCH] = Watch(run.process, run.environment["machine"]["checks"], run.note)
            config.stash[WATCH].check()
        config.stash[PROGRESS] = Progress({item.nodeid: _kind(item) for item in session.items}, partial(_say, config))
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """After each case, check the machine if a minute has passed, and now and then print how far the run is."""
    progress = item.config.stash[PROGRESS]
    progress.start()
    done = yield
    progress.end(item.nodeid)
    if WATCH in item.config.stash:
        item.config.stash[WATCH].check_if_due()
    return done


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Turn an error that says that memory ran out into a skip of the case, since others may fit; raise all others."""
    try:
        return (yield)
    except Exception as error:
        if not out_of_memory(error):
            raise
        why = reason(error)
    give_memory_back()  # here, where nothing holds the case's frames any more
    pytest.skip(f"{OUT_OF_MEMORY}: {why}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record an error or skip of an item in setup, call or teardown; where the item passes, forget an earlier record.

    After an error in setup or call nothing is recorded if the item's rows are in their table nevertheless.
    """
    report = yield
    run, afterwards = item.config.stash[RUN], report.when == "teardown"
    step = _step(item) + ("-teardown" if afterwards else "")
    if report.passed and report.when != "setup":
        run.done(step)
    elif call.excinfo is not None and (afterwards or not _has_rows(item, run)):
        run.fail(step, {} if afterwards else _known(item), call.excinfo.value)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, object, object]:
    """Write the run's tables before other plugins finish, so that an error in one of them costs no results."""
    config, run = session.config, session.config.stash.get(RUN, None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Not saving anything")  # a selection may time nothing
        if run is None:
            return (yield)
        with closing(run):
            _assemble(session, run)
            try:
                return (yield)
            finally:
                run.finish(config.option.benchmark_json, interrupted=exitstatus == pytest.ExitCode.INTERRUPTED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tables of tasks, layer and generation, and what failed; nothing if no run directory was opened."""
    run = config.stash.get(RUN, None)
    if run is not None and PART not in config.stash:
        terminalreporter.section("heads kept, accuracy, latency")
        for line in summary(run.path, run.process):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def settings(pytestconfig: pytest.Config) -> RunSettings:
    """What the command line asks for, checked."""
    return settings_of(pytestconfig)


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> RunDirectory:
    """The run directory that the benchmarks fill, opened or gone on in after collection."""
    return pytestconfig.stash[RUN]


@pytest.fixture(autouse=True)
def threads(run: RunDirectory) -> Iterator[None]:
    """Run each case on as many torch threads as `environment.json` records; a case that changes the number fails."""
    with pinned(run.environment["threads"]):
        yield


@pytest.fixture(scope="session")
def experiments(settings: RunSettings, run: RunDirectory, pytestconfig: pytest.Config) -> Mapping[str, Experiment]:
    """Name of each task of the run -> its `Experiment`, which reports to the run directory what it finds out."""
    training = partial(_visible, pytestconfig)
    return {
        task.name: Experiment(
            task,
            training,
            partial(run.describe_task, task.name),
            partial(run.kept, task.name),
            partial(run.check_dense, task.name),
            pytestconfig.stash.get(SHELF, NO_SHELF),
        )
        for task in settings.tasks
    }


@pytest.fixture(scope="session")
def latencies(settings: RunSettings, run: RunDirectory) -> Latencies:
    """What times plans for all benchmarks of the run: those with as many heads in each layer only once."""
    return Latencies(settings.limits, run.timed, seed=settings.process)


def _run_elsewhere(session: pytest.Session, run: RunDirectory) -> None:
    """Run all cases on the workers of --cluster; the session ends where that can't go on."""
    from bench.cluster.errors import SweepError

    def failed(item: pytest.Item, error: BaseException) -> None:
        run.fail(_step(item), _known(item), error)

    try:
        session.config.stash[CLUSTER].run(session, run, {item.nodeid: _kind(item) for item in session.items}, failed)
    except SweepError as error:
        pytest.exit(f"--cluster: {error}", returncode=pytest.ExitCode.INTERRUPTED)


@contextmanager
def _visible(config: pytest.Config) -> Iterator[None]:
    """Within the context output is not captured, so that bars of training show, and no case's time is counted."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext(), config.stash[PROGRESS].preparing():
        yield


def _say(config: pytest.Config, line: str) -> None:
    """Print a line on the terminal, unless pytest was called with -q."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter and config.get_verbosity() >= 0:
        reporter.ensure_newline()
        reporter.write_line(line)


def _final(config: pytest.Config) -> list[str]:
    """Warnings that this run, once cut off, couldn't go on.

    There is one for each part of a task that two processes can't compare, so that nothing could tell that the task is
    still the same.
    """
    tasks = config.stash[RUN].environment["tasks"] if RUN in config.stash else {}
    return [
        f"if it is cut off, this run can't go on: task {name}, {what}"
        for name in (task.name for task in settings_of(config).tasks)
        for what in tasks.get(name, {}).get("uncomparable", [])
    ]


def _opened(config: pytest.Config) -> RunDirectory:
    """Make the run directory that the settings name, or go on in it if it is there.

    Raises:
        pytest.UsageError: it can't be written, is being written to, or was measured otherwise (`RunDirectory.create`).
    """
    settings = settings_of(config)
    earlier = (read_json(settings.directory / "environment.json") or {}).get("tasks", {})
    tasks = {task.name: _describe(task, settings, earlier.get(task.name, {})) for task in settings.tasks}
    command = config.option.command or shlex.join(["pytest", *map(str, config.invocation_params.args)])
    known = {**environment(command), "preset": settings.preset}
    if CLUSTER in config.stash:
        known = config.stash[CLUSTER].environment(known, read_json(settings.directory / "environment.json") or {})
    try:
        return RunDirectory.create(settings.directory, known, tasks, settings.process)
    except OSError as error:
        raise pytest.UsageError(f"--run: {settings.directory} can't be written ({error}); give another") from error


def _assemble(session: pytest.Session, run: RunDirectory) -> None:
    """Check the machine once more, and write the tables that are made of the run directory's other files.

    If all that was asked for had been measured before, pytest ends with success.
    """
    stash = session.config.stash
    if stash[DONE] and not session.items:
        session.exitstatus = pytest.ExitCode.OK  # all that was asked for is there
    if WATCH in stash:
        stash[WATCH].check()
    if PART not in stash:  # whoever has the whole run assembles it
        run.assemble()


def _is_done(item: pytest.Item, run: RunDirectory) -> bool:
    """Whether an item's result is in the run directory: its case's or plan's record, or its rows of a table."""
    if known := _known(item):
        return run.has_case(known["case"]) if "case" in known else run.has_plan(known["plan"])
    return _has_rows(item, run, whole=True)


def _known(item: pytest.Item) -> dict[str, Any]:
    """The fields of an item's case or plan that are known before it is measured; {} if it measures neither."""
    return next((value.record() for value in _params(item).values() if hasattr(value, "record")), {})


def _has_rows(item: pytest.Item, run: RunDirectory, *, whole: bool = False) -> bool:
    """Whether the table rows that an item leaves are there already.

    Args:
        whole: count only rows that are true in the columns which the marker `fills` lists as such.
    """
    mark = item.get_closest_marker("fills")
    if mark is None:
        return False
    file, *true = mark.args
    columns = {column: _params(item)[name] for column, name in mark.kwargs.items()}
    return run.has(file, **columns, **(dict.fromkeys(true, True) if whole else {}))


def _params(item: pytest.Item) -> dict[str, Any]:
    """The values that an item is parametrized with, by name."""
    return item.callspec.params if hasattr(item, "callspec") else {}


def _kind(item: pytest.Item) -> tuple[str, ...]:
    """The kind of an item's work, by which its time is guessed: the test function and the task whose model it uses."""
    params = _params(item)
    subject = _known(item).get("task") or params.get("task") or params.get("subject")
    function = item.nodeid.partition("[")[0]
    return (function, str(subject)) if subject else (function,)


def _step(item: pytest.Item) -> str:
    """An item's name in a form that can be part of a file name, such as scores-digits-taylor."""
    return re.sub(r"[^\w.+-]+", "-", item.name.removeprefix("test_")).strip("-")


def _describe(task: Task, settings: RunSettings, earlier: Mapping[str, int]) -> dict[str, object]:
    """What `environment.json` says about a task before its model is there.

    Args:
        earlier: what it says of the task from an earlier part of the run; {} if there was none.
    """
    module = sys.modules[type(task).__module__]
    docs = module.__doc__ or type(task).__doc__ or ""
    return {
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "chance": task.chance,
        "pretrained": getattr(task, "pretrained", False),
        "batch_size": settings.batch(task, *filter(None, [earlier.get("batch_size")])),
        "description": docs.strip().partition("\n")[0],
        **identity(task, settings.files.get(task.name)),
    }
