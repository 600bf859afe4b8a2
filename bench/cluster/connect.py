"""Which dask scheduler `--cluster` means: one that runs already, or one of our own with workers on this machine."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.cluster.errors import SweepError
from mha.values.optional_packages import needed

if TYPE_CHECKING:
    from distributed import Client

LOCAL = re.compile(r"local:([1-9]\d*)")
REMOTE = re.compile(r"(tcp|tls)://[^\s/:]+:\d+|(tcp|tls)://\[[0-9a-fA-F:]+\]:\d+")
LOOPBACK = "127.0.0.1"  # the only address that anything we start listens on
IN_THE_OPEN = re.compile(r"tcp://(?!127\.|localhost:|\[::1\])")
OURS = {"nthreads": 1, "memory_limit": 0, "silence_logs": "CRITICAL"}  # of our own workers
SECONDS = 30.0  # to reach a scheduler for the first time


def check_address(text: str) -> None:
    """Check what `--cluster` was given.

    Raises:
        ValueError: it is no address of a scheduler.
        MissingPackageError: dask.distributed is not installed.
    """
    if not LOCAL.fullmatch(text) and not REMOTE.fullmatch(text):
        raise ValueError(
            f"expected the address of a dask scheduler, as tcp://127.0.0.1:8786 or tls://HOST:PORT, or local:N for N "
            f"workers on this machine, got {text!r}"
        )
    needed("distributed", "cluster", "to measure on a cluster")


@contextmanager
def scheduler(text: str) -> Iterator[str]:
    """Within the context there is a scheduler, whose address is yielded; if it is our own, it ends with the context.

    Args:
        text: what `--cluster` was given, checked.
    """
    match = LOCAL.fullmatch(text)
    if match is None:
        yield text
        return
    from distributed import Nanny, Scheduler, SpecCluster

    listening: dict[str, Any] = {"host": LOOPBACK, "port": 0}
    cluster = SpecCluster(
        scheduler={"cls": Scheduler, "options": {**listening, "dashboard_address": f"{LOOPBACK}:0"}},
        workers={
            index: {"cls": Nanny, "options": {**listening, **OURS, **_tokens(index)}} for index in range(int(match[1]))
        },
        silence_logs="CRITICAL",
    )
    with cluster:
        yield cluster.scheduler_address


def _tokens(index: int) -> dict[str, Any]:
    """Options of our own worker of this number. The first owns the devices: what is timed waits there in a line."""
    return {"resources": {"CPU": 1, "GPU": 1} if index == 0 else {}}


def connected(address: str, seconds: float = SECONDS) -> "Client":
    """A client of the scheduler at this address, by TLS if dask's own settings say so.

    Raises:
        SweepError: nobody answers there within so many seconds, or not in the same language.
    """
    from distributed import Client

    try:
        return Client(address, timeout=seconds, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise SweepError(
            f"no dask scheduler answers at {address} ({type(error).__name__}: {error}); start one with `dask scheduler "
            "--host 127.0.0.1`, or give --cluster local:N"
        ) from error
