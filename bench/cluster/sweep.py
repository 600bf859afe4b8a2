"""Runs jobs on dask workers until each has ended once, whatever happens to workers, scheduler and network meanwhile.

At most a few more jobs than workers can run are with the scheduler at any time; all others wait here. Nothing that a
scheduler or a worker knows is needed to go on: what has ended is in the run directory, and the rest is submitted again.
"""

import asyncio
import concurrent.futures
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.cluster.connect import connected
from bench.cluster.errors import CaseDiedError, CaseRefusedError, OtherCodeError, SweepError
from bench.cluster.fleet import Fleet, Tokens
from bench.cluster.runner import Files, run_case, stop_sweep

if TYPE_CHECKING:
    from distributed import Client, Future

TRIES = 3  # of a case whose process dies
LOST = 20  # times that a case is submitted again after dask has lost it
PATIENCE = 600.0  # seconds without a scheduler, or without a worker for a job, before the sweep ends
TICK, LOOK, FETCHERS = 0.2, 1.0, 8
AHEAD = 0.25  # jobs with the scheduler beyond those that can run, as a share of these
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """A case, or something that cases share and that is made once.

    Attributes:
        name: the pytest id of a case, or a name for what is made.
        tokens: the resources that its worker must have, and that it takes while it runs.
        needs: names of jobs whose files it gets.
        makes: whether others need what it makes.
    """

    name: str
    tokens: Tokens
    needs: tuple[str, ...] = ()
    makes: bool = False


@dataclass(frozen=True)
class Work:
    """What is to be done, and what happens with it; everything is called in the thread that runs the sweep.

    Attributes:
        spec: returns what `function` is told of a job, when it is about to be submitted.
        stored: called with a job and its result, once for each job.
        lost: called with a job and the reason why it has no result.
        files: returns the files that a job has made, once it has ended; None where it has made none.
        function: what runs on a worker, with the spec and the files.
    """

    spec: Callable[[Job], Mapping[str, Any]]
    stored: Callable[[Job, Result], None]
    lost: Callable[[Job, str], None]
    files: Callable[[str], Files | None] = lambda _: None
    function: Callable[..., Result] = run_case


@dataclass
class _Flight:
    """A job that is with the scheduler: what dask calls it, and the workers that may run it."""

    job: Job
    future: "Future"
    workers: frozenset[str]


class Sweep:
    """One sweep.

    Args:
        name: of the sweep, unlike that of any other.
        address: of the scheduler; it may be gone for a while, and another may be there afterwards.
        client: of that scheduler.
        say: called with a line to print.
        patience: seconds without a scheduler, or without a worker for a job, before the sweep ends.
    """

    def __init__(
        self,
        name: str,
        address: str,
        client: "Client",
        fleet: Fleet,
        jobs: Iterable[Job],
        work: Work,
        say: Callable[[str], None] = lambda _: None,
        patience: float = PATIENCE,
    ) -> None:
        self.name, self._address, self.client, self._fleet, self._work = name, address, client, fleet, work
        self._say, self._patience = say, patience
        self.open = {job.name: job for job in jobs}
        self.duplicates = 0  # results of jobs that had one
        self._ready: defaultdict[tuple[tuple[str, float], ...], deque[Job]] = defaultdict(deque)
        self._waiting: defaultdict[str, list[Job]] = defaultdict(list)  # name of a job -> jobs that need it
        self._missing: dict[str, int] = {}  # name of a job -> how many of those that it needs have not ended
        self._flights: dict[str, _Flight] = {}
        self._shared: dict[str, Future] = {}
        self._died: defaultdict[str, list[str]] = defaultdict(list)
        self._lost: defaultdict[str, int] = defaultdict(int)
        self._attempts = 0
        self._events: queue.SimpleQueue[tuple[Job, Future, Any, BaseException | None]] = queue.SimpleQueue()
        self._stuck_since: float | None = None
        self._said_stuck = False
        self._ended = threading.Event()

    def run(self) -> None:
        """Run all jobs. However it ends, afterwards none of them runs any more.

        Raises:
            SweepError: there has been no scheduler, or no worker for any of the jobs that are left, for `patience`.
        """
        for job in self.open.values():
            needed = [name for name in job.needs if name in self.open]
            self._missing[job.name] = len(needed)
            for name in needed:
                self._waiting[name].append(job)
            if not needed:
                self._enqueue(job)
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        with concurrent.futures.ThreadPoolExecutor(FETCHERS, "results") as self._fetchers:
            try:
                while self.open:
                    self._submit()
                    self._receive()
                    self._check()
            finally:
                self._ended.set()
                self._release()

    @property
    def lanes(self) -> int:
        """How many cases run side by side now."""
        return min(len(self._flights), sum(member.threads for member in self._fleet.members.values()))

    def where(self) -> str:
        """What runs on which worker, as far as the scheduler knows."""
        names = {flight.future.key: job for job, flight in self._flights.items()}
        with suppress(Exception):  # there may be no scheduler now
            processing = self.client.processing()
            running = {address: names[keys[0]] for address, keys in processing.items() if keys and keys[0] in names}
            return "; ".join(
                f"{member.name}: {running[address].rpartition('::')[2]}"
                for address, member in self._fleet.members.items()
                if address in running
            )
        return ""

    def _enqueue(self, job: Job, *, first: bool = False) -> None:
        line = self._ready[tuple(sorted(job.tokens.items()))]
        (line.appendleft if first else line.append)(job)

    def _submit(self) -> None:
        """Submit jobs while there is room for more with the scheduler."""
        if self.client.status != "running":
            return
        for tokens, line in self._ready.items():
            members = self._fleet.with_tokens(dict(tokens)) if line else []
            room = sum(_slots(member.threads, member.tokens, dict(tokens)) for member in members)
            flying = sum(tuple(sorted(flight.job.tokens.items())) == tokens for flight in self._flights.values())
            workers = frozenset(member.address for member in members)
            for _ in range(min(len(line), room + int(room * AHEAD) - flying) if room else 0):
                self._send(line.popleft(), workers)

    def _send(self, job: Job, workers: frozenset[str]) -> None:
        """Submit a job, to be run by one of these workers."""
        self._attempts += 1
        shared = [future for name in job.needs if (future := self._share(name, workers)) is not None]
        future = self.client.submit(
            self._work.function,
            self._work.spec(job),
            *shared,
            key=f"{'make' if job.makes else 'case'}-{self.name}-{self._attempts}",
            workers=sorted(workers),
            resources=dict(job.tokens) or None,
            pure=False,
        )
        self._flights[job.name] = _Flight(job, future, workers)
        future.add_done_callback(lambda done: self._fetchers.submit(self._fetch, job, done))

    def _share(self, name: str, workers: frozenset[str]) -> "Future | None":
        """Files that a job has made, sent to a worker once, from where the others get them; None if it made none."""
        future = self._shared.get(name)
        if future is None or future.status != "finished":
            files = self._work.files(name)
            if files is None:
                return None
            future = self.client.scatter([dict(files)], workers=sorted(workers), hash=False)[0]
            self._shared[name] = future
        return self._shared[name]

    def _fetch(self, job: Job, future: "Future") -> None:
        """Get the result of a job that has ended, in a thread of its own: it may have to be computed again."""
        result, error = None, None
        try:
            if future.status == "finished":
                result = future.result()
            elif future.status == "error":
                error = future.exception()
        except BaseException as raised:  # of the connection, or of the job
            error = raised
        self._events.put((job, future, result, error))

    def _receive(self) -> None:
        """Handle what has ended, waiting for a moment if nothing has."""
        with suppress(queue.Empty):
            event = self._events.get(timeout=TICK)
            while True:
                self._handle(*event)
                event = self._events.get_nowait()

    def _handle(self, job: Job, future: "Future", result: Any, error: BaseException | None) -> None:
        """Store a result, or see to a job that has none."""
        flight = self._flights.get(job.name)
        is_last = flight is not None and flight.future is future
        if is_last:
            del self._flights[job.name]
        if job.name not in self.open:
            self.duplicates += result is not None
        elif result is not None:
            self._work.stored(job, result)
            self._end(job)
        elif is_last:
            self._again(job, error)

    def _again(self, job: Job, error: BaseException | None) -> None:
        """Submit a job again that has no result, or give it up."""
        from distributed import KilledWorker

        if isinstance(error, OtherCodeError):
            self._say(f"a worker's code has changed since the sweep began: {error}")
            self._fleet.forget()  # all are asked again
            self._count_lost(job, "workers of another code took it")
        elif isinstance(error, KilledWorker):
            last = error.last_worker
            died = f"{error.allowed_failures + 1} workers died while running it"
            self._give_up(job, f"{died}, the last of them {last.name} at {last.address}")
        elif isinstance(error, CaseRefusedError):
            self._give_up(job, str(error))
        elif error is None or isinstance(error, OSError) or _is_cancelled(error):
            self._count_lost(job, "dask lost it")
        else:
            words = str(error) if isinstance(error, CaseDiedError) else f"{type(error).__name__}: {error}"
            self._died[job.name].append(words)
            if len(self._died[job.name]) < TRIES:
                self._say(f"{job.name}: {words}; it is tried again")
                self._enqueue(job, first=True)
            else:
                self._give_up(job, f"it was tried {TRIES} times: {words}")

    def _count_lost(self, job: Job, why: str) -> None:
        self._lost[job.name] += 1
        if self._lost[job.name] < LOST:
            self._enqueue(job, first=True)
        else:
            self._give_up(job, f"{why} {LOST} times")

    def _give_up(self, job: Job, why: str) -> None:
        self._work.lost(job, why)
        self._end(job)

    def _end(self, job: Job) -> None:
        """Note that a job has ended, for good or ill; what has waited for it may begin."""
        del self.open[job.name]
        for waiting in self._waiting.pop(job.name, ()):
            self._missing[waiting.name] -= 1
            if not self._missing[waiting.name]:
                self._enqueue(waiting)

    def _check(self) -> None:
        """See to a lost connection, and to jobs whose workers have gone."""
        if self.client.status == "running":
            members = self._fleet.members
            for flight in [each for each in self._flights.values() if not each.workers & members.keys()]:
                flight.future.cancel()  # with that it has ended, without a result
            if self._flights or not self.open:
                self._stuck_since = None
                return
            why = "no worker that may run the rest is connected"
        else:
            self._shared.clear()
            why = f"no scheduler answers at {self._address}"
        now = time.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
            self._said_stuck = False
        stuck = now - self._stuck_since
        if stuck > self._patience:
            raise SweepError(
                f"{why}, for {self._patience:.0f} s; what was finished stays, and the same command with the same --run "
                "goes on"
            )
        if stuck > 5 * LOOK and not self._said_stuck:
            self._said_stuck = True
            self._say(f"{why}; waiting up to {self._patience / 60:.0f} minutes for it, {len(self.open)} to go")
        if self.client.status in ("closed", "closing"):
            with suppress(SweepError):
                self.client = connected(self._address, LOOK * 5)

    def _watch(self) -> None:
        """Look for workers that join or leave, until the sweep ends; asking one what it is takes seconds."""
        while not self._ended.wait(LOOK):
            with suppress(Exception):  # the connection may be lost; `_check` sees to that
                if self.client.status == "running":
                    self._fleet.look(self.client)

    def _release(self) -> None:
        """Take back what is with the scheduler, and end what runs on workers."""

        def release() -> None:
            with suppress(Exception):
                self.client.cancel([flight.future for flight in self._flights.values()], force=True)
                self.client.run(stop_sweep, self.name, on_error="ignore")

        if self.client.status == "running":
            thread = threading.Thread(target=release, daemon=True)
            thread.start()
            thread.join(20)  # a worker may hang


def _is_cancelled(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError | concurrent.futures.CancelledError)


def _slots(threads: int, has: Tokens, wanted: Tokens) -> int:
    """How many jobs that want these tokens a worker can run at once."""
    return min([threads, *(int(has[name] // amount) for name, amount in wanted.items())])
