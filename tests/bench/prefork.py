"""Processes of `pytest bench` that needn't import torch and pandas: each is forked from one that has.

Importing takes longer than a run of the tiny task. The process that is forked has imported what every run imports, and
done nothing else: what a run reads (options, benchmarks, tasks, the environment) it reads itself. Peaks of memory are
left out, for which a run starts a process that imports torch again. The whole command, from nothing and with them, is
what tests/bench/test_bench_end_to_end.py runs.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
NEEDED = (
    "torch", "torch._dynamo", "torch.utils.flop_counter", "pandas", "pyarrow.parquet", "rich.console", "rich.table",
    "rich._emoji_codes", "mha", "bench.measure", "bench.settings.options", "bench.models.latency",
    "bench.rundir.directory", "bench.rundir.terminal_summary",
)  # fmt: skip
PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_benchmark.plugin"}  # no others' imports


class Forks:
    """The process that is forked, from the first call of `start` to `close`."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None
        self._outputs = ExitStack()  # not held by forks, which a traceback of a failed test keeps in a cycle

    def start(self, arguments: Sequence[str], **environment: str) -> "Fork":
        """`pytest` with these arguments, in the project's folder, with these environment variables besides."""
        output = self._outputs.enter_context(tempfile.NamedTemporaryFile("r", encoding="utf-8"))  # noqa: SIM115
        asked = {"arguments": list(arguments), "environment": environment, "output": output.name}
        return Fork(self.ask(asked), self, output)

    def ask(self, request: dict[str, Any]) -> Any:
        """What the process answers."""
        if self._server is None:
            command = [sys.executable, "-m", __name__]
            self._server = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{json.dumps(request)}\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End it, and close what its forks have written to."""
        self._outputs.close()
        if self._server is not None:
            self._server.communicate()


class Fork:
    """One process of pytest that `Forks.start` has started."""

    def __init__(self, pid: int, forks: Forks, output: IO[str]) -> None:
        self.pid, self._forks, self._output = pid, forks, output
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code once it has ended, -N where signal N has ended it."""
        if self._code is None:
            self._code = self._forks.ask({"poll": self.pid})
        return self._code

    def wait(self, seconds: float = 600) -> int:
        """Its exit code; a TimeoutError where it has none after so long."""
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(self.output())
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing to one that has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def output(self) -> str:
        """All that it has written to the terminal so far."""
        self._output.seek(0)
        return self._output.read()


def _environment() -> dict[str, str]:
    """This process's, less what pytest sets for its workers and tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def main() -> int:
    """Fork for each request, until there are no more; in a fork, the exit code of pytest."""
    for name in NEEDED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            _answer(os.waitstatus_to_exitcode(status) if pid else None)
        elif pid := os.fork():
            _answer(pid)
        else:
            return _run(**request)
    return 0


def _answer(value: int | None) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def _run(arguments: list[str], environment: dict[str, str], output: str) -> int:
    # Ctrl-C is heeded, although a shell starts background jobs with it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(output, os.O_RDWR | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ |= {**PLUGINS, **environment}
    sys.argv = ["pytest", *arguments]

    import pytest

    from bench.measure import counts

    counts.peak_bytes = lambda *_: None  # type: ignore[assignment]
    return pytest.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
