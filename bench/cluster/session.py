"""`pytest bench --cluster`: what bench/conftest.py does where cases are not run in its own process."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from bench.cluster.connect import IN_THE_OPEN, check_address, connected, scheduler
from bench.cluster.errors import SweepError
from bench.cluster.fleet import Fleet, FleetCapabilities, check_tokens
from bench.cluster.jobs import Plan
from bench.cluster.store import FACTS, Store
from bench.cluster.sweep import Job, Sweep, Work
from bench.measure.environment import environment, fingerprint
from bench.rundir.description import SCHEMA
from bench.rundir.directory import RunDirectory
from bench.rundir.progress import Kind, Progress
from bench.settings.option_parsing import naming
from bench.settings.options import DTYPES, ELSEWHERE, MODES, PRESETS, RunSettings, preset_of, settings_of
from bench.settings.sending import settings_as_data
from mha.values.errors import MissingPackageError

Failing = Callable[[pytest.Item, BaseException], None]


class ClusterSession:
    """The scheduler and the workers of a session of pytest, from its start to its end.

    Raises:
        pytest.UsageError: `--cluster` names no scheduler, nobody answers there, or there is no worker.
    """

    def __init__(self, config: pytest.Config, say: Callable[[str], None]) -> None:
        self._config, self._say, self._stack = config, say, ExitStack()
        self.name = uuid.uuid4().hex[:12]
        with naming("--cluster"):
            try:
                check_address(config.option.cluster)
                self._start(config.option.cluster)
            except (SweepError, MissingPackageError) as error:
                self.close()
                raise ValueError(str(error)) from error

    def _start(self, text: str) -> None:
        """Connect, and ask all workers what they are."""
        self.address = self._stack.enter_context(scheduler(text))
        self._client = connected(self.address)
        self._stack.callback(self._close_client)
        self._say(f"cluster: scheduler {self.address}, dashboard {self._client.dashboard_link}")
        if IN_THE_OPEN.match(self.address):
            self._say("cluster: this connection is not encrypted, and whoever reaches the scheduler can run code there")
        here = environment("")
        self.fleet = Fleet(self.name, (*DTYPES, *self._modes()), here, self._say)
        self.fleet.look(self._client)
        check_tokens(self.fleet, {})
        kinds = {
            facts["fingerprint"] for member in self.fleet.members.values() if (facts := member.facts["environment"])
        }
        self._say(f"cluster: {len(self.fleet.members)} workers, on {len(kinds)} kinds of machine")
        self._config.stash[ELSEWHERE] = FleetCapabilities(self.fleet.members.values())

    def environment(self, known: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
        """What environment.json is to say of the run's own machine, which is none that this process runs on.

        It is that of the run's first part, or else of the first worker that may time something.

        Args:
            known: facts of this process's machine.
            earlier: the environment.json that is there; {} in a new run.
        """
        timing = [member for member in self.fleet.members.values() if member.tokens] or [*self.fleet.members.values()]
        facts = earlier if "fingerprint" in earlier else timing[0].facts["environment"]
        if "fingerprint" in earlier and not _same_versions(earlier, known):
            facts = timing[0].facts["environment"]  # the run directory refuses them, and says what differs
        chosen = {**known, **{name: facts[name] for name in FACTS if name in facts}}
        return {**chosen, "fingerprint": fingerprint(chosen)}

    def check(self, items: Sequence[pytest.Item]) -> None:
        """Check that there is a worker for every case.

        Raises:
            pytest.UsageError: there is none; the message says what is missing.
        """
        with naming("--cluster"):
            try:
                check_tokens(self.fleet, Plan(items, settings_of(self._config), on=self._config.option.on).wanted())
            except SweepError as error:
                raise ValueError(str(error)) from error

    def run(self, session: pytest.Session, run: RunDirectory, kinds: Mapping[str, Kind], failed: Failing) -> None:
        """Run all cases of the session on the workers, and store what they send.

        Args:
            kinds: pytest's id of each case -> its kind.
            failed: called with a case that could not be measured and an error that says why; records that.

        Raises:
            SweepError: the scheduler, or all workers, have been gone for too long.
        """
        config, settings = self._config, settings_of(self._config)
        plan = Plan(session.items, settings, run, config.option.on)
        store = Store(run, time.monotonic)
        jobs = [job for job in plan.jobs if not (job.makes and store.made(job.name) is not None)]
        sender = _Sender(plan, settings, run, self, config)
        sweep: Sweep
        progress = Progress(kinds, lambda line: self._say(f"{line}; {sweep.where()}"), lanes=lambda: sweep.lanes)

        def stored(job: Job, result: Mapping[str, Any]) -> None:
            if job.makes:
                store.learn(result, plan.shared[job.name].task)
                if _passed(result["reports"]):
                    store.put(job.name, result["files"])
                return
            store.take(result, timed=plan.timed(job) is not None)
            for data in result["reports"]:
                _report(session, plan.items[job.name], data)
            progress.ended(job.name, result["seconds"])
            _stop_if_asked(session)

        def lost(job: Job, why: str) -> None:
            if job.makes:
                self._say(f"{job.name} could not be made: {why}")
                return
            item = plan.items[job.name]
            failed(item, SweepError(why))
            _report_failure(item, why)
            progress.ended(job.name, None)
            _stop_if_asked(session)

        work = Work(sender.spec, stored, lost, store.made)
        sweep = Sweep(self.name, self.address, self._client, self.fleet, jobs, work, self._say)
        try:
            sweep.run()
        finally:
            self._client = sweep.client
            if sweep.duplicates + store.dropped:
                self._say(f"cluster: {sweep.duplicates + store.dropped} results came twice; the first of each is kept")
        if not session.testsfailed:
            store.clear()

    def close(self) -> None:
        """Leave the scheduler; if it is our own, end it and its workers."""
        self._stack.close()

    def _close_client(self) -> None:
        self._client.close(timeout=10)

    def _modes(self) -> tuple[str, ...]:
        """The modes that may be asked for: to try others takes a worker minutes."""
        asked = (self._config.option.modes or "").split(",")
        return tuple(mode for mode in MODES if mode in asked or mode in PRESETS[preset_of(self._config)].modes)


class _Sender:
    """What each job is sent."""

    def __init__(
        self,
        plan: Plan,
        settings: RunSettings,
        run: RunDirectory,
        session: ClusterSession,
        config: pytest.Config,
    ) -> None:
        self._plan, self._run = plan, run
        self._always = {
            "sweep": session.name,
            "names": session.fleet.names,
            "code": run.environment["code"],
            "schema": SCHEMA,
            "preset": settings.preset,
        }
        disabled = config.getoption("benchmark_disable") and not config.getoption("benchmark_enable")
        self._argument = {
            "settings": settings_as_data(settings, config.option.task),
            "command": run.environment["commands"][-1],
            "options": ["--benchmark-disable"] if disabled else [],
        }

    def spec(self, job: Job) -> dict[str, Any]:
        """What `bench.cluster.runner.run_case` is told of a job."""
        plan = self._plan
        asked = {"test": plan.test(job), "timed": plan.timed(job), "make": plan.make(job)}
        tasks = self._run.environment["tasks"]
        return {**self._always, "tasks": tasks, "seeds": plan.seeds(job), "argument": {**self._argument, **asked}}


def _same_versions(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two machines have the same versions of Python and packages, whatever their builds."""

    def versions(facts: Mapping[str, Any]) -> dict[str, str]:
        packages = {name: version.partition("+")[0] for name, version in facts.get("packages", {}).items()}
        return {**packages, "python": ".".join(str(facts.get("python")).split(".")[:2])}

    return versions(one) == versions(other)


def _passed(reports: Sequence[Mapping[str, Any]]) -> bool:
    return bool(reports) and all(report["outcome"] == "passed" for report in reports)


def _report(session: pytest.Session, item: pytest.Item, data: dict[str, Any]) -> None:
    """Hand a report from another process to this pytest, as one of its own."""
    report = session.config.hook.pytest_report_from_serializable(config=session.config, data=data)
    report.nodeid = item.nodeid
    item.ihook.pytest_runtest_logreport(report=report)


def _report_failure(item: pytest.Item, why: str) -> None:
    """Tell this pytest that a case has failed without a report of its own."""
    report = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed",
        longrepr=why,
        when="call",
    )
    item.ihook.pytest_runtest_logreport(report=report)


def _stop_if_asked(session: pytest.Session) -> None:
    """End the session where pytest was told to, as by -x."""
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
