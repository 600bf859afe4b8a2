"""A scheduler and workers of dask as processes of their own, on loopback, which tests kill and stop."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[3]
FAST = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s",
    "DASK_DISTRIBUTED__COMM__RETRY__COUNT": "2",
    "DASK_LOGGING__DISTRIBUTED": "critical",
}


class Cluster:
    """One scheduler, and workers by name; a context at whose end none of them runs any more."""

    def __init__(self, folder, protocol="tcp"):
        self._protocol = protocol
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"{protocol}://127.0.0.1:{self.port}"
        self.processes = {}

    def __enter__(self):
        self.start_scheduler()
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start_scheduler(self):
        self._start("scheduler", "scheduler", "--port", str(self.port), *self._always())

    def start_worker(self, name, *options, resources="", nanny=False, **environment):
        given = ["--resources", resources] if resources else []
        options = ["--no-nanny", *options] if not nanny else options
        always = ("--nthreads", "1", "--name", name, "--memory-limit", "0", *self._always())
        folder = ("--local-directory", str(self._folder / f"worker-{name}"))
        self._start(name, "worker", self.address, *always, *folder, *given, *options, **environment)

    def _always(self):
        return "--host", "127.0.0.1", "--no-dashboard", "--protocol", self._protocol

    def signal(self, name, number):
        """Send a signal to a process and all that it has started."""
        os.killpg(self.processes[name].pid, number)

    def kill(self, name):
        self.signal(name, signal.SIGKILL)
        self.processes.pop(name).wait()

    def _start(self, name, *arguments, **environment):
        with (self._folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                cwd=ROOT,
                env={**os.environ, **FAST, "PYTHONPATH": str(ROOT), **environment},
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
