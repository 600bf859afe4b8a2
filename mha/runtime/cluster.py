"""Work on the workers of a dask.distributed cluster: a function of every shard, and what it returns added up.

The objects that all shards need, such as a model, are sent to each worker once. Shards that are here travel with their
task, so that another worker can do it again; those on the cluster already (futures) stay there. Which results are added
up first depends on nothing but the shards' order: the sum is the same, to the last bit, for any number of workers. A
shard that was computed twice, since a worker was lost, counts once: a result belongs to its shard.
"""

import contextlib
import logging
import math
import operator
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, reduce
from typing import Any, NamedTuple, TypeVar

from torch import nn

from mha.values.errors import CalibrationError, MhaError
from mha.values.optional_packages import needed

GRACE = 10.0  # seconds that a first worker is waited for, at the start
MISSED = 60.0  # seconds that workers may all be gone in between: a nanny starts them anew
ASK = 5.0  # seconds between counts of the workers
LOOK = 0.005  # seconds between looks at what has finished
AHEAD = 4  # tasks for each thread of the workers that are handed out before others have finished
FAN = 4  # results that one task adds up
TRIES = 3  # how often work is begun again after all workers that held a part of it were lost
METHODS = ("submit", "scatter", "run", "nthreads")  # by which a client is known

LOGGER = logging.getLogger(__name__)

R = TypeVar("R")


class _Held:
    """Something that is sent as it is: dask has ways of its own for modules, and looks for futures in lists."""

    def __init__(self, content: Any) -> None:
        self.content = content


class _Packed:
    """A shard as it travels.

    Args:
        header, frames: as `distributed.protocol.serialize` makes them.
    """

    def __init__(self, header: Any, frames: Sequence[Any]) -> None:
        self.header, self.frames = header, [bytes(frame) for frame in frames]


class Task(NamedTuple):
    """A shard as it is sent.

    Attributes:
        name: of the shard, in errors.
        shard: its content, or a future of it.
        exact: whether what the function raises says all there is to say, so that the shard need not be named.
        args: what the function is given beside what all shards are.
    """

    name: str
    shard: Any
    exact: bool = False
    args: tuple[Any, ...] = ()


class Cluster:
    """The workers of a client, and what they have been sent.

    Args:
        client: a `distributed.Client`.
        shared: name, in errors -> what every shard's function is given first, as a mapping; sent to each worker once.
        by: the name of the function that asks, in errors.

    Raises:
        CalibrationError: it is no such client, is closed or asynchronous, has no workers, or a worker has another
            version of Python, torch or this package; or something can't be sent.
    """

    def __init__(self, client: Any, shared: Mapping[str, Any], by: str) -> None:
        check_client(client, by)
        self.client, self._by, self._shared = client, by, dict(shared)
        self._versions = versions()
        self._given: list[Any] = []  # futures, of what is shared and of what was added to it
        self._added_later: list[Any] = []
        self._futures: weakref.WeakSet[Any] = weakref.WeakSet()  # one that nobody refers to is let go of by dask
        self._prepare(GRACE)

    def mapped(self, function: Callable[..., R], task: Task, *args: Any) -> R:
        """What the function returns for (shared, the task's shard, *the task's args, *args), computed by one worker.

        Raises:
            Exception: as `added`.
        """
        return self.added(function, lambda: iter([task]), *args)

    def added(
        self,
        function: Callable[..., R],
        tasks: Callable[[], Iterator[Task]],
        *args: Any,
        done: Callable[[], None] = lambda: None,
    ) -> R:
        """The sum, by `+`, over all shards of what the function returns for (shared, shard, *the task's args, *args).

        What `share` has sent stands in `shared` as a list under "later". `+` makes a new sum, and changes neither of
        the two.

        Args:
            tasks: gives the shards; called again where all workers that held a part of the work were lost.
            done: called whenever a shard has been computed.

        Raises:
            MhaError: the function raised one, on the first of the shards on which it fails; or as `CalibrationError`.
            CalibrationError: it raised another error there: says which, and names the shard; or workers die on a shard,
                a shard can't be sent, there are no shards, or no workers any more.
        """
        for attempt in range(TRIES):
            try:
                return self._added(function, tasks(), args, done)
            except _LostError as lost:
                LOGGER.warning("%s: %s; the work is begun again", self._by, lost)
                if attempt == TRIES - 1:
                    raise CalibrationError(
                        f"{self._by}: the workers that held a part of the work were lost {TRIES} times ({lost}); look "
                        "at their logs, above all for memory"
                    ) from lost
                self._prepare(MISSED)
        raise AssertionError

    def close(self) -> None:
        """Let go of all that was sent and computed; what has not begun never will."""
        self._release([*self._futures, *self._given])

    def share(self, value: Any) -> None:
        """Send each worker something more; from now on the function is given it too, after what came before."""
        self._added_later.append(value)
        try:
            self._given += self.client.scatter([_Held(value)], broadcast=True, hash=False)
        except Exception as error:  # a worker was lost meanwhile, say
            LOGGER.info("%s: sending again what workers need: %r", self._by, error)
            self._prepare(MISSED)

    def _added(
        self, function: Callable[..., R], tasks: Iterator[Task], args: tuple[Any, ...], done: Callable[[], None]
    ) -> R:
        """What `added` returns.

        Raises:
            _LostError: something that was needed was lost with the workers that held it.
        """
        most, asked = 0, -math.inf
        running: dict[int, tuple[Task, Any]] = {}
        tree = _Tree(self)
        try:
            for number, task in enumerate(tasks):
                shard = task.shard if self._is_future(task.shard) else _packed(task)
                future = self.submit(_work, function, self._versions, self._given, shard, (*task.args, *args))
                running[number] = (task, future)
                tree.add(future)
                if time.monotonic() - asked > ASK:  # workers may have joined
                    most, asked = AHEAD * max(1, sum(self._workers().values())), time.monotonic()
                while len(running) >= most:
                    self._finish(running, done)
            while running:
                self._finish(running, done)
            if (total := tree.total()) is None:
                raise CalibrationError("the calibration set is empty: expected at least one batch")
            running[-1] = (Task("the sum of the shards", None), total)
            while running:
                self._finish(running, lambda: None)
            result: R = self._of(total)
            return result
        finally:
            self._release([*(future for _, future in running.values()), *tree.roots()])

    def submit(self, *args: Any, priority: int = 0) -> Any:
        """A future of a call on some worker; `close` lets go of it."""
        with warnings.catch_warnings():  # a shard is as large as it is, and has to be sent
            warnings.filterwarnings("ignore", "Sending large graph")
            future = self.client.submit(*args, key=f"mha-{uuid.uuid4().hex}", pure=False, priority=priority)
        self._futures.add(future)
        return future

    def _release(self, futures: Sequence[Any]) -> None:
        """Let go of these futures: dask forgets what nobody wants, and does not begin with it."""
        for future in futures:
            with contextlib.suppress(Exception):  # the client may be closed
                future.release()

    def _finish(self, running: dict[int, tuple[Task, Any]], done: Callable[[], None]) -> None:
        """Wait until one of these has finished, at least, and take out all that have.

        Raises:
            Exception: as `added`; of several shards that fail it is the first one's.
            _LostError: as `_added`.
        """
        gone_since: float | None = None
        looked = time.monotonic()
        while not (finished := [number for number, (_, future) in running.items() if future.status != "pending"]):
            time.sleep(LOOK)
            now = time.monotonic()
            if now - looked > 1.0:
                looked = now
                gone_since = None if self._workers() else gone_since or now
                if gone_since is not None and now - gone_since > MISSED:
                    raise CalibrationError(
                        f"{self._by}: the cluster has had no worker for {MISSED:.0f} s; what was computed is lost with "
                        "them: start workers, and call again"
                    )
        failed = [number for number in finished if running[number][1].status != "finished"]
        if failed:
            self._fail(running, min(failed))
        for number in finished:
            running.pop(number)
            done()

    def _fail(self, running: dict[int, tuple[Task, Any]], number: int) -> None:
        """Raise what the shard of this number raised, or one before it that is still running.

        Raises:
            Exception: as `added`, or `_LostError`.
        """
        earlier = {other: running[other] for other in running if other < number}
        while earlier:  # one process would have come to these first
            self._finish(earlier, lambda: None)
        task, future = running[number]
        if future.status in ("cancelled", "lost"):
            raise _LostError(f"{task.name} was lost")
        self._of(future, task)

    def _of(self, future: Any, task: Task | None = None) -> Any:
        """A future's result; what it raised, with the shard's name.

        Raises:
            Exception: as `added`, or `_LostError`.
        """
        distributed = needed("distributed", "cluster", "to work on a cluster")
        name = "the sum" if task is None else task.name
        try:
            return self._gathered(future)
        except MhaError as error:
            if task is not None and task.exact:
                raise
            raise type(error)(f"{name}: {error}") from error
        except distributed.KilledWorker as error:
            raise CalibrationError(
                f"{name}: its worker died {error.allowed_failures + 1} times in computing it, most often for want of "
                "memory: give smaller shards, or workers more memory"
            ) from error
        except distributed.client.FutureCancelledError as error:
            raise _LostError(f"{name} was lost") from error
        except Exception as error:
            raise CalibrationError(f"{name}, on a worker: {type(error).__name__}: {error}") from error

    def _gathered(self, future: Any) -> Any:
        """What a future that is there comes to, however long it takes to get it here.

        Raises:
            Exception: what it was raised with.
        """
        while True:
            try:
                return future.result(timeout=MISSED)
            except TimeoutError:
                if future.status == "error":  # it is the function's own
                    raise
                if not self._workers():
                    raise _LostError("the result was lost") from None

    def _prepare(self, seconds: float) -> None:
        """Wait for workers, check them, and send them what every shard needs.

        Raises:
            CalibrationError: no worker came within so many seconds, one has other versions, or something can't be sent;
                says which, and what.
        """
        for _ in range(TRIES):
            until = time.monotonic() + MISSED
            self._wait_for_workers(seconds)
            while not self._check_versions() and time.monotonic() < until:
                time.sleep(0.1)
                self._wait_for_workers(seconds)
            try:
                what = [_Held(value) for value in (self._shared, *self._added_later)]
                self._given = list(self.client.scatter(what, broadcast=True, hash=False))
                return
            except Exception as error:
                for name, value in self._shared.items():
                    _check_sendable(name, value)
                why: Exception = error  # a worker was lost meanwhile, say
        raise CalibrationError(f"{self._by}: workers can't be sent what they need: {why!r}") from why

    def _workers(self) -> Mapping[str, int]:
        """Address -> threads of each worker that there is now.

        Raises:
            CalibrationError: the scheduler does not answer.
        """
        try:
            return dict(self.client.nthreads())
        except Exception as error:
            check_client(self.client, self._by)
            raise CalibrationError(f"{self._by}: the cluster's scheduler does not answer: {error!r}") from error

    def _wait_for_workers(self, seconds: float) -> None:
        """Wait until there is a worker.

        Raises:
            CalibrationError: there is none after so many seconds.
        """
        began = time.monotonic()
        while not self._workers():
            if time.monotonic() - began > seconds:
                raise CalibrationError(
                    f"{self._by}: the cluster has no workers; none came within {seconds:.0f} s. Start some, as by "
                    "`dask worker ADDRESS` or client.cluster.scale(2), or call without cluster="
                )
            time.sleep(0.1)

    def _check_versions(self) -> bool:
        """Check that all workers there are have the versions that are here; whether all have answered.

        One that has just been lost does not; each is asked again with each shard.

        Raises:
            CalibrationError: a worker has others; says which worker, and which version is where. Or it is a thread of
                this process.
        """
        if inside := [address for address in self._workers() if address.startswith("inproc")]:
            raise CalibrationError(
                f"{self._by}: worker {inside[0]} is a thread of this process, which has one random state and one model "
                "for all of them: give it processes of its own, as LocalCluster(processes=True) does"
            )
        answers = self.client.run(_asking(sorted(self._versions)), on_error="return")
        for address, found in answers.items():
            if not isinstance(found, OSError):
                _check_alike(self._by, address, self._versions, found)
        return bool(answers) and not any(isinstance(found, OSError) for found in answers.values())

    def _is_future(self, value: Any) -> bool:
        return isinstance(value, needed("distributed", "cluster", "to work on a cluster").Future)


class _LostError(Exception):
    """Something that was needed was lost with the workers that held it."""


class _Tree:
    """Futures added up as they come, by their numbers alone: of eight (0 + 1 + 2 + 3) + (4 + 5 + 6 + 7), and so on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._roots: list[tuple[int, Any]] = []  # (of how many levels it is the sum, future), the most first

    def add(self, future: Any) -> None:
        """Add a shard's result, which need not be there yet."""
        self._roots.append((0, future))
        while len(self._roots) >= FAN and self._roots[-1][0] == self._roots[-FAN][0]:
            self._join()

    def total(self) -> Any:
        """A future of the sum of all; None of none."""
        while len(self._roots) > 1:
            self._join()
        return self._roots[0][1] if self._roots else None

    def roots(self) -> list[Any]:
        """The futures that are not part of others."""
        return [future for _, future in self._roots]

    def _join(self) -> None:
        """Put their sum in the place of the last few."""
        last = self._roots[-FAN:]
        total = self._cluster.submit(_sum, *(future for _, future in last), priority=1)
        self._roots[-FAN:] = [(last[0][0] + 1, total)]


def check_client(client: Any, by: str) -> None:
    """Refuse what is no client of a cluster, and one that can't be used.

    Raises:
        CalibrationError: it is not a `distributed.Client`, asynchronous, or closed.
    """
    if not all(callable(getattr(client, method, None)) for method in METHODS):
        raise CalibrationError(
            f"{by}: cluster is a dask.distributed Client, as Client('tcp://127.0.0.1:8786') makes one; got {client!r}"
        )
    if getattr(client, "asynchronous", False):
        raise CalibrationError(f"{by}: the client is asynchronous; give one made without asynchronous=True")
    if getattr(client, "status", "running") != "running":
        raise CalibrationError(f"{by}: the client is {client.status}, not running; make a new one and call again")


@cache
def versions() -> dict[str, str]:
    """What has to be the same on all machines, with its version here; of this package, a digest of its code too."""
    found: dict[str, str] = _asking(("code of mha", "mha", "python", "torch"))()
    return found


def _asking(names: Sequence[str]) -> Callable[[], dict[str, str]]:
    """A function that says which versions of these there are where it runs.

    It is a function within a function: a worker gets it by its code, and so needs no package of ours to run it.
    """

    def versions_here() -> dict[str, str]:
        import hashlib
        import importlib
        import pathlib
        import platform

        found = {}
        for name in names:
            try:
                if name == "python":
                    found[name] = ".".join(platform.python_version_tuple()[:2])
                elif name == "code of mha":
                    root = pathlib.Path(str(importlib.import_module("mha").__file__)).parent
                    digest = hashlib.sha256()
                    for path in sorted(root.rglob("*.py")):
                        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
                    found[name] = digest.hexdigest()[:12]
                else:
                    found[name] = importlib.import_module(name).__version__.partition("+")[0]
            except ImportError:
                found[name] = "not installed"
        return found

    return versions_here


def _check_alike(by: str, address: str, here: Mapping[str, str], there: Any) -> None:
    """Refuse a worker with other versions.

    Raises:
        CalibrationError: it has others, or could not say which.
    """
    if not isinstance(there, Mapping):
        raise CalibrationError(f"{by}: worker {address} can't say which versions it has: {there!r}")
    if other := [
        f"{name} {there.get(name)}, here {version}" for name, version in here.items() if there.get(name) != version
    ]:
        raise CalibrationError(
            f"{by}: worker {address} has another version: {'; '.join(other)}. Scores of different code are never "
            "added up: give it the same environment, or take it out of the cluster"
        )


def _check_sendable(name: str, value: Any) -> None:
    """Refuse what can't be sent to another process.

    Raises:
        CalibrationError: it can't; says, of a model, which part of it.
    """
    if (why := _unsendable(value)) is None:
        return
    parts = value.named_modules() if isinstance(value, nn.Module) else ()
    for path, module in parts:
        for attribute, held in vars(module).items():
            if attribute == "_modules" or (reason := _unsendable(held)) is None:
                continue
            raise CalibrationError(
                f"the {name} can't be sent to workers, because of {attribute.strip('_')} of {path or 'the model'!r} "
                f"({type(module).__name__}): {reason}; take it off meanwhile"
            )
    raise CalibrationError(f"the {name} can't be sent to workers: {why}; make it a function of a module, say")


def _unsendable(value: Any) -> str | None:
    """Why the value can't be sent to another process; None if it can."""
    try:
        _serialized(value)
    except Exception as error:
        return str(error.__cause__ or error)
    return None


def _serialized(value: Any) -> tuple[Any, Sequence[Any]]:
    """Header and frames of the value, as dask sends it."""
    serialize = needed("distributed.protocol.serialize", "cluster", "to work on a cluster").serialize
    header, frames = serialize(_Held(value), on_error="raise")
    return header, frames


def _packed(task: Task) -> _Packed:
    """The task's shard as it travels.

    Raises:
        CalibrationError: it can't be sent.
    """
    try:
        return _Packed(*_serialized(task.shard))
    except TypeError as error:
        raise CalibrationError(f"{task.name} can't be sent to a worker: {error.__cause__ or error}") from error


def _unpacked(shard: _Packed) -> Any:
    """What was packed."""
    deserialize = needed("distributed.protocol.serialize", "cluster", "to work on a cluster").deserialize
    return deserialize(shard.header, shard.frames).content


def _work(
    function: Callable[..., R], expected: Mapping[str, str], given: Sequence[_Held], shard: Any, args: tuple[Any, ...]
) -> R:
    """On a worker: what the function returns for a shard.

    Raises:
        CalibrationError: this worker came late, and has other versions.
    """
    if expected != versions():
        _check_alike("this call", _address(), expected, versions())
    shared, *later = (held.content for held in given)
    shard = _unpacked(shard) if isinstance(shard, _Packed) else shard
    return function({**shared, "later": later}, shard, *args)


def _address() -> str:
    """The address of the worker that this runs on."""
    return str(needed("distributed", "cluster", "to work on a cluster").get_worker().address)


def _sum(*results: Any) -> Any:
    """On a worker: the sum of some results, which stay as they are."""
    return reduce(operator.add, results)
