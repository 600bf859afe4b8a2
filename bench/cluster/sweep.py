"""Runs jobs on dask workers until each has ended once, whatever happens to workers, scheduler and network meanwhile.

The scheduler never has more jobs than workers can run, and each is for one worker: so it is known what a worker that
dies was doing. All others wait here. Nothing that a scheduler or a worker knows is needed to go on: what has ended is
in the run directory, and the rest is submitted again.
"""

import asyncio
import concurrent.futures
import logging
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
from bench.cluster.fleet import Fleet, Member, Tokens
from bench.cluster.runner import Files, run_case, stop_sweep
from bench.measure.errors import described

if TYPE_CHECKING:
    from distributed import Client, Future

TRIES = 3  # of a case whose process, or worker, dies
LOST = 20  # times that a case is submitted again after dask has lost it
PATIENCE = 600.0  # seconds without a scheduler, or without a worker for a job, before the sweep ends
SHOWN = 4  # jobs that run, in a line
TICK, LOOK, FETCHERS = 0.2, 1.0, 8
Result = Mapping[str, Any]

LOGGER = logging.getLogger(__name__)


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
    """A job that a worker runs.

    Attributes:
        worker: its address.
        died: whether that worker has died meanwhile.
    """

    job: Job
    future: "Future[Any]"
    worker: str
    died: bool = False


@dataclass
class _Free:
    """What is free on a worker: for so many jobs more, and these resources."""

    member: Member
    threads: int
    tokens: dict[str, float]

    def takes(self, tokens: Tokens) -> bool:
        """Take what a job needs from it; False, and nothing is taken, where it is not there."""
        if self.threads < 1 or any(self.tokens.get(name, 0.0) < amount for name, amount in tokens.items()):
            return False
        self.threads -= 1
        for name, amount in tokens.items():
            self.tokens[name] -= amount
        return True


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
        self._shared: dict[str, Future[Any]] = {}
        self._died: defaultdict[str, list[str]] = defaultdict(list)
        self._lost: defaultdict[str, int] = defaultdict(int)
        self._attempts = 0
        self._events: queue.SimpleQueue[tuple[Job, Future[Any], Any, BaseException | None]] = queue.SimpleQueue()
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
        return len(self._flights)

    def where(self) -> str:
        """What runs on which worker; of many, on some."""
        flights, members = [*self._flights.values()], self._fleet.members
        names = [members[each.worker].name if each.worker in members else each.worker for each in flights]
        shown = [f"{name}: {each.job.name.rpartition('::')[2]}" for name, each in zip(names, flights, strict=True)]
        return "; ".join([*shown[:SHOWN], *([f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else [])])

    def _enqueue(self, job: Job, *, first: bool = False) -> None:
        line = self._ready[tuple(sorted(job.tokens.items()))]
        (line.appendleft if first else line.append)(job)

    def _submit(self) -> None:
        """Give workers that have room for it a job, those first that need most of a worker."""
        if self.client.status != "running":
            return
        room = self._room()
        for key in sorted(self._ready, key=len, reverse=True):
            tokens, line = dict(key), self._ready[key]
            for free in room if line else ():
                while line and free.takes(tokens):
                    if not self._send(line.popleft(), free.member.address):
                        return

    def _room(self) -> list["_Free"]:
        """What is free on each worker; first those that have the fewest resources, which others may need."""
        members = sorted(self._fleet.members.values(), key=lambda member: len(member.tokens))
        free = {member.address: _Free(member, member.threads, dict(member.tokens)) for member in members}
        for flight in self._flights.values():
            if flight.worker in free:
                free[flight.worker].takes(flight.job.tokens)
        return [*free.values()]

    def _send(self, job: Job, worker: str) -> bool:
        """Submit a job for the worker at this address; False, and it waits on, where dask can't take it now."""
        self._attempts += 1
        spec = self._work.spec(job)
        files = {name: self._work.files(name) for name in job.needs if not self._is_shared(name)}
        try:
            self._share({name: each for name, each in files.items() if each is not None})
            future = self.client.submit(
                self._work.function,
                spec,
                *(self._shared[name] for name in job.needs if name in self._shared),
                key=f"{'make' if job.makes else 'case'}-{self.name}-{self._attempts}",
                workers=[worker],
                resources=dict(job.tokens) or None,
                pure=False,
            )
        except Exception:  # of a connection that is lost, or a worker that has just gone: `_check` sees to that
            LOGGER.debug("%s can't be submitted now", job.name, exc_info=True)
            self._enqueue(job, first=True)
            return False
        self._flights[job.name] = _Flight(job, future, worker)
        future.add_done_callback(lambda done: self._fetchers.submit(self._fetch, job, done))
        return True

    def _is_shared(self, name: str) -> bool:
        """Whether workers have the files that a job has made; not so if the only one that had them has gone."""
        return name in self._shared and self._shared[name].status == "finished"

    def _share(self, files: Mapping[str, Files]) -> None:
        """Send what jobs have made to a worker, once, from where the others get it."""
        for name, each in files.items():
            (self._shared[name],) = self.client.scatter([dict(each)], hash=False)

    def _fetch(self, job: Job, future: "Future[Any]") -> None:
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

    def _handle(self, job: Job, future: "Future[Any]", result: Any, error: BaseException | None) -> None:
        """Store a result, or see to a job that has none."""
        flight = self._flights.get(job.name)
        if flight is not None and flight.future is future:
            del self._flights[job.name]
        else:
            flight = None  # of an earlier try
        if job.name not in self.open:
            self.duplicates += result is not None
        elif result is not None:
            self._work.stored(job, result)
            self._end(job)
        elif flight is not None:
            self._again(job, flight, error)

    def _again(self, job: Job, flight: _Flight, error: BaseException | None) -> None:
        """Submit a job again that has no result, or give it up."""
        from distributed import KilledWorker

        if isinstance(error, CaseRefusedError):
            self._give_up(job, str(error))
        elif isinstance(error, OtherCodeError):
            self._say(f"the code of the worker at {flight.worker} has changed since the sweep began: {error}")
            self._fleet.forget()  # all are asked again
            self._count_lost(job)
        elif flight.died or isinstance(error, KilledWorker):
            self._count_death(job, f"the worker at {flight.worker} died while running it")
        elif error is None or isinstance(error, OSError) or _is_cancelled(error):
            self._count_lost(job)
        else:
            self._count_death(job, str(error) if isinstance(error, CaseDiedError) else described(error))

    def _count_death(self, job: Job, why: str) -> None:
        """Submit a job again after a process has died of it, or for it; or give it up, after `TRIES` times."""
        self._died[job.name].append(why)
        if len(self._died[job.name]) < TRIES:
            self._say(f"{job.name}: {why}; it is tried again")
            self._enqueue(job, first=True)
        else:
            self._give_up(job, f"it was tried {TRIES} times: " + "; then ".join(dict.fromkeys(self._died[job.name])))

    def _count_lost(self, job: Job) -> None:
        """Submit a job again that dask has lost, with the scheduler or with a connection."""
        self._lost[job.name] += 1
        if self._lost[job.name] < LOST:
            self._enqueue(job, first=True)
        else:
            self._give_up(job, f"dask lost it {LOST} times")

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
            for flight in self._flights.values():
                if flight.worker not in members and not flight.died:
                    flight.died = True
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
