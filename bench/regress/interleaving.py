"""A pytest plugin with which several processes take turns, sample by sample.

A shared machine changes its speed by ten percent from one tenth of a second to the next. So the processes that are
compared all stand at the same benchmark, one of them runs at a time, and it passes the turn on after a sample of some
milliseconds. Files of benchmarks need not know of it: pytest-benchmark's fixture is wrapped, and is handed the samples
by its public `timer` marker, so that its report holds them.
"""

import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple, TextIO

import pytest
from pytest_benchmark.fixture import BenchmarkFixture, FixtureAlreadyUsed

from bench.measure.errors import described
from bench.measure.replay_clock import ReplayClock

WARM_UP = 3  # calls before the first that counts; the last of them says how long one takes
UNUSED = "it takes the fixture `benchmark` and never calls it, so nothing is timed: call it once"
TWICE = "a test can call the fixture `benchmark` once, and this one calls it again: make a test of each call"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that the gate starts a process with."""
    group = parser.getgroup("turns", "taking turns with other processes")
    group.addoption("--baton", metavar="R,W", help="file descriptors: what to do comes from R, what was done goes to W")
    group.addoption("--as-they-are", action="store_true", help="benchmarks sample by themselves, in one turn")


def pytest_configure(config: pytest.Config) -> None:
    """Where there is a baton, run only when it is passed here."""
    if config.option.baton and not config.option.collectonly:
        read, write = map(int, config.option.baton.split(","))
        turns = Turns(os.fdopen(read), os.fdopen(write, "w"), every=config.option.as_they_are)
        config.pluginmanager.register(turns)
        if not config.option.as_they_are:
            config.pluginmanager.register(SamplesInTurns(turns))  # late: its fixture comes first


class Turns:
    """Runs items and takes samples when told to. Everything said is a line of JSON.

    First goes out `{"collected": [node id, …], "error": null or why a file could not be, "skipped": {file: why},
    "library": where mha is}`. Then for each `[node id, the next one or null]` that comes in, `{"seconds": …}` of a call
    goes out once it has been warmed up; for each number that comes in, so many calls are one sample and `{}` goes out;
    0 ends the item, and its `{"error": null or one line, "skipped": null or why}` goes out, as it does at once where
    something goes wrong or is skipped. The end of what comes in is the end of the run.

    Args:
        every: run items that do not ask for pytest-benchmark's fixture, too: they may make it themselves.
    """

    def __init__(self, incoming: TextIO, outgoing: TextIO, *, every: bool) -> None:
        self._in, self._out, self._every = incoming, outgoing, every
        self._error: str | None = None
        self._skipped: str | None = None
        self._skipped_files: dict[str, str] = {}
        self._used = False

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._error = str(report.longrepr).strip().splitlines()[-1]
        elif report.skipped:
            self._skipped_files[report.nodeid] = _why_skipped(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the items that are asked for, one after the other, until nothing more comes in."""
        items = {
            item.nodeid: item
            for item in session.items
            if self._every or "benchmark" in getattr(item, "fixturenames", ())
        }
        skipped = self._skipped_files
        self._say({"collected": list(items), "error": self._error, "skipped": skipped, "library": _library()})
        for line in self._in:
            name, following = json.loads(line)
            self._error, self._skipped, self._used = None, None, self._every
            hook = session.config.hook
            hook.pytest_runtest_protocol(item=items[name], nextitem=items[following] if following else None)
            unused = None if self._used or self._skipped else UNUSED
            self._say({"error": self._error or unused, "skipped": self._skipped})
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Keep what a failure says, in one line, and why a benchmark is skipped."""
        report = yield
        if report.failed and self._error is None:
            self._error = _first_line(call)
        elif report.skipped:
            self._skipped = _why_skipped(report)
        return report

    def pytest_benchmark_generate_machine_info(self) -> dict[str, str]:
        """Replace pytest-benchmark's own, which asks about the processor for two seconds in every process."""
        versions = {name: metadata.version(name) for name in ("torch", "numpy")}
        return {"python": platform.python_version(), "implementation": platform.python_implementation(), **versions}

    def pytest_benchmark_generate_commit_info(self) -> dict[str, str]:
        """Replace pytest-benchmark's own: the gate knows the commits."""
        return {}  # the gate knows

    def sizes(self, seconds: float) -> Iterator[int]:
        """Yield how many calls make the next sample; it has been taken when the next one is asked for."""
        self._used = True
        self._say({"seconds": seconds})
        while size := json.loads(self._in.readline() or "0"):
            yield size
            self._say({})

    def _say(self, what: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()


class SamplesInTurns:
    """Wraps pytest-benchmark's fixture, so that samples are taken in turns."""

    def __init__(self, turns: "Turns") -> None:
        self._turns = turns

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        item.add_marker(pytest.mark.benchmark(timer=ReplayClock()))

    @pytest.fixture
    def benchmark(self, benchmark: Any, request: pytest.FixtureRequest) -> "BenchmarkInTurns":
        """Wrap pytest-benchmark's fixture, so that samples are taken in turns."""
        (clock, *_) = (
            mark.kwargs["timer"]
            for mark in request.node.iter_markers("benchmark")
            if isinstance(mark.kwargs.get("timer"), ReplayClock)
        )
        return BenchmarkInTurns(benchmark, clock, self._turns.sizes)


def _first_line(call: pytest.CallInfo[None]) -> str:
    """What has gone wrong in a call, on one line."""
    if call.excinfo is None:
        return "XPASS(strict): it is marked as one that fails, and has not"
    return described(call.excinfo.value)


def _why_skipped(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Why something is skipped, on one line; as in pytest, also where it was expected to fail and did."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
    lines = reason.removeprefix("Skipped: ").strip().splitlines()
    return lines[0] if lines else "no reason is given"


def _library() -> str | None:
    """The file of the `mha` that the benchmarks have imported; None where they have not."""
    return getattr(sys.modules.get("mha"), "__file__", None)


class BenchmarkInTurns(BenchmarkFixture):
    """The fixture of pytest-benchmark in a process that has turns: the same one, but for how it samples."""

    def __init__(
        self, benchmark: BenchmarkFixture, clock: ReplayClock, sizes: Callable[[float], Iterator[int]]
    ) -> None:
        self.__dict__ = benchmark.__dict__
        self._clock, self._sizes, self._called = clock, sizes, False

    def __call__(self, function_to_benchmark: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._sample(lambda: TimedCall(function_to_benchmark, args, kwargs))

    def pedantic(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        setup: Callable[[], Any] | None = None,
        teardown: Callable[..., Any] | None = None,
        rounds: int = 1,  # noqa: ARG002
        warmup_rounds: int = 0,  # noqa: ARG002
        iterations: int = 1,  # noqa: ARG002
    ) -> Any:
        """Time a call as often as the gate chooses; with a `setup` or a `teardown` each call is a sample."""

        def prepared() -> TimedCall:
            arguments = setup() if setup else None
            called_with, named = arguments or (args, kwargs or {})
            return TimedCall(target, called_with, named, teardown)

        return self._sample(prepared, several=setup is None and teardown is None)

    def _sample(self, prepare: Callable[[], "TimedCall"], *, several: bool = True) -> Any:
        """Warm up, take samples for as long as they are asked for, and hand them to pytest-benchmark.

        Args:
            several: calls may make one sample.

        Raises:
            FixtureAlreadyUsed: it has been called before.
        """
        if self._called:
            self.has_error = True
            raise FixtureAlreadyUsed(TWICE)
        self._called = True
        for _ in range(WARM_UP):
            seconds, result = prepare().timed(1)
        samples, size = [], 1
        for asked in self._sizes(seconds):
            size = asked if several else 1
            samples.append(prepare().timed(size)[0])
        if samples:
            self._clock.show([sample * size for sample in samples])
            super().pedantic(lambda: None, rounds=len(samples), iterations=size)
        return result


class TimedCall(NamedTuple):
    """A function with its arguments to be timed, and what is done afterwards."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    teardown: Callable[..., Any] | None = None

    def timed(self, size: int) -> tuple[float, Any]:
        """Time so many calls, without garbage collection: seconds of one of them, and what the last one returned."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            start = time.perf_counter()
            for _ in range(size):
                result = self.function(*self.args, **self.kwargs)
            seconds = (time.perf_counter() - start) / size
        finally:
            if collecting:
                gc.enable()
        if self.teardown:
            self.teardown(*self.args, **self.kwargs)
        return seconds, result
