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
    """Add the options with which the gate starts a process: --baton and --as-they-are."""
    group = parser.getgroup("turns", "taking turns with other processes")
    group.addoption("--baton", metavar="R,W", help="file descriptors: what to do comes from R, what was done goes to W")
    group.addoption("--as-they-are", action="store_true", help="benchmarks sample by themselves, in one turn")


def pytest_configure(config: pytest.Config) -> None:
    """If --baton is given, run items only when the gate passes the turn to this process.

    Unless --as-they-are is given, too, each benchmark takes its samples in turns as well.
    """
    if config.option.baton and not config.option.collectonly:
        read, write = map(int, config.option.baton.split(","))
        turns = Turns(os.fdopen(read), os.fdopen(write, "w"), every=config.option.as_they_are)
        config.pluginmanager.register(turns)
        if not config.option.as_they_are:
            config.pluginmanager.register(SamplesInTurns(turns))  # late: its fixture comes first


class Turns:
    """Runs pytest's items and takes samples as the gate asks for it; each message between them is a line of JSON.

    First the process writes `{"collected": [node id, …], "error": null or why a file can't be collected, "skipped":
    {file: why}, "library": the file of mha}`. Then it reads messages. At `[node id, the next one or null]` it begins
    that item, warms it up, and writes `{"seconds": …}` of a call. At a number it makes so many calls as one sample, and
    writes `{}`. At 0 it ends the item, and writes `{"error": null or one line, "skipped": null or why}`, as it does at
    once if an item fails or is skipped. Where there are no more messages the run ends.

    Args:
        incoming: where messages of the gate come from.
        outgoing: where messages to the gate go.
        every: also run items that have no argument `benchmark`: they may get pytest-benchmark's fixture in another way.
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
        """Run the items that the gate asks for, one after the other, until no more messages come in.

        Returns True, by which pytest knows that items need not be run by others.
        """
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
        """Keep one line on why an item fails or is skipped, for the message at its end."""
        report = yield
        if report.failed and self._error is None:
            self._error = _first_line(call)
        elif report.skipped:
            self._skipped = _why_skipped(report)
        return report

    def pytest_benchmark_generate_machine_info(self) -> dict[str, str]:
        """Replace pytest-benchmark's facts about the machine, which take it two seconds in every process."""
        versions = {name: metadata.version(name) for name in ("torch", "numpy")}
        return {"python": platform.python_version(), "implementation": platform.python_implementation(), **versions}

    def pytest_benchmark_generate_commit_info(self) -> dict[str, str]:
        """Keep pytest-benchmark from asking git for the commit, which the gate knows."""
        return {}  # the gate knows

    def sizes(self, seconds: float) -> Iterator[int]:
        """Tell the gate the `seconds` of a call, then yield the number of calls for each sample that it asks for.

        A sample must have been taken when the next number is asked for. It ends when the gate wants no more samples.
        """
        self._used = True
        self._say({"seconds": seconds})
        while size := json.loads(self._in.readline() or "0"):
            yield size
            self._say({})

    def _say(self, what: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()


class SamplesInTurns:
    """A pytest plugin that replaces pytest-benchmark's fixture by one that samples when it is this process's turn."""

    def __init__(self, turns: "Turns") -> None:
        self._turns = turns

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        item.add_marker(pytest.mark.benchmark(timer=ReplayClock()))

    @pytest.fixture
    def benchmark(self, benchmark: Any, request: pytest.FixtureRequest) -> "BenchmarkInTurns":
        """pytest-benchmark's fixture, wrapped so that it samples when it is this process's turn."""
        (clock, *_) = (
            mark.kwargs["timer"]
            for mark in request.node.iter_markers("benchmark")
            if isinstance(mark.kwargs.get("timer"), ReplayClock)
        )
        return BenchmarkInTurns(benchmark, clock, self._turns.sizes)


def _first_line(call: pytest.CallInfo[None]) -> str:
    """Why an item has failed in this call (setup, test or teardown), on one line."""
    if call.excinfo is None:
        return "XPASS(strict): it is marked as one that fails, and has not"
    return described(call.excinfo.value)


def _why_skipped(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Why a file or an item is skipped, on one line; as in pytest, one that failed as expected counts as skipped."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
    lines = reason.removeprefix("Skipped: ").strip().splitlines()
    return lines[0] if lines else "no reason is given"


def _library() -> str | None:
    """The path of the file of the `mha` that the benchmarks have imported; None where they have imported none."""
    return getattr(sys.modules.get("mha"), "__file__", None)


class BenchmarkInTurns(BenchmarkFixture):
    """pytest-benchmark's fixture where processes take turns: the gate says when and how often it samples.

    Args:
        benchmark: the fixture that it replaces.
        clock: the timer that hands the samples to it.
        sizes: gets the seconds of a call, and yields how many calls make each sample (`Turns.sizes`).
    """

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
        """Time a call as often as the gate chooses, and return its result.

        With a `setup` or a `teardown` each call is a sample. `rounds`, `warmup_rounds` and `iterations` are not used.

        Raises:
            FixtureAlreadyUsed: the fixture has been called before.
        """

        def prepared() -> TimedCall:
            arguments = setup() if setup else None
            called_with, named = arguments or (args, kwargs or {})
            return TimedCall(target, called_with, named, teardown)

        return self._sample(prepared, several=setup is None and teardown is None)

    def _sample(self, prepare: Callable[[], "TimedCall"], *, several: bool = True) -> Any:
        """Warm up, take the samples that the gate asks for, hand them to pytest-benchmark; return the call's result.

        Args:
            prepare: makes the call that is timed, anew for each sample.
            several: whether one sample may be made of several calls.

        Raises:
            FixtureAlreadyUsed: the fixture has been called before.
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
    """A function to be timed, its arguments, and a `teardown` that is called with the same arguments afterwards."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    teardown: Callable[..., Any] | None = None

    def timed(self, size: int) -> tuple[float, Any]:
        """Make `size` calls without garbage collection; return the mean seconds of one, and the last one's result."""
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
