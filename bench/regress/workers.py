"""A fresh process of pytest that runs benchmarks when it is its turn (bench/regress/interleaving.py)."""

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from bench.regress.errors import GateError
from bench.regress.git import without_git

PLUGIN = "bench.regress.interleaving"
STEADY_MEMORY = {  # for glibc: keep what is freed, since to fault it in anew takes each process another time
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
SILENCE = 300.0  # seconds without a word before a process is given up


@dataclass(frozen=True)
class Arm:
    """Where a side's processes run.

    Attributes:
        name: "base" or "head".
        root: the folder of the side's checkout.
        python: the path of the interpreter of the side's environment.
        variables: environment variables to set.
    """

    name: str
    root: Path
    python: Path
    variables: Mapping[str, str] = field(default_factory=dict)


class Worker:
    """A process of pytest that waits for its turns; as a context manager, it is killed at the end if it still runs.

    Args:
        number: of the process in its arm.
        files: the files of benchmarks, relative to the arm's root.
        report: the path where pytest-benchmark's JSON goes.
        threads: how many torch uses.
        as_they_are: benchmarks sample by themselves, without turns; each has ended when `begin` returns.

    Raises:
        GateError: the arm's interpreter can't be started.
    """

    def __init__(
        self, arm: Arm, number: int, files: Sequence[str], report: Path, threads: int, *, as_they_are: bool = False
    ) -> None:
        self.arm, self.number = arm, number
        self.errors: dict[str, str] = {}  # benchmark -> the first thing that went wrong with it
        self.skipped: dict[str, str] = {}  # benchmark, or a whole file -> why it is skipped
        self.collected: list[str] = []
        self._item = ""
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._buffer = b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [
            *(os.fspath(arm.python), "-m", "pytest", *files, "-q", "-p", PLUGIN, "-p", "no:cacheprovider"),
            *("--confcutdir=bench/regress", "--rootdir=.", "-W", "default"),
            *(f"--baton={theirs_in},{theirs_out}", "--benchmark-quiet", f"--benchmark-json={report}"),
            *(["--as-they-are"] if as_they_are else []),
        ]
        try:
            self._process = subprocess.Popen(
                command,
                cwd=arm.root,
                env=_variables(arm, threads),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs_in, theirs_out),
                start_new_session=True,  # Ctrl-C is for the gate alone, which then ends them
            )
        except OSError as error:
            raise GateError(f"{arm.name}: can't start {arm.python} ({error}); is it still installed?") from error
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process unless it has ended, and close its pipes and its log."""
        for descriptor in (self._out, self._in):
            if descriptor >= 0:
                os.close(descriptor)
        self._out = self._in = -1
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._log.close()

    def wait_until_collected(self) -> None:
        """Wait until the process has told which benchmarks it has collected, and keep their names in `collected`.

        Raises:
            GateError: the benchmarks import another checkout's `mha`; or the process has ended, or hangs.
        """
        answer = self._hear()
        self.collected = answer["collected"]
        if answer["library"] and not Path(answer["library"]).resolve().is_relative_to(self.arm.root.resolve()):
            raise GateError(
                f"{self.arm.name}: the benchmarks import {answer['library']}, not the mha in {self.arm.root}; does "
                'pyproject.toml still say pythonpath = ["."] to pytest?'
            )
        if answer["error"]:
            self.errors[""] = answer["error"]
        self.skipped |= answer.get("skipped", {})

    def bind(self, core: int) -> None:
        """Let the process run only on the core with this number."""
        os.sched_setaffinity(self._process.pid, {core})

    def begin(self, item: str, following: str | None) -> float | None:
        """Set up the benchmark `item` and warm it up; `following` is the one that comes after it, if any.

        Returns:
            Seconds of a call; None where the benchmark has ended, without a sample.

        Raises:
            GateError: the process has ended, or hangs.
        """
        self._item = item
        answer = self._ask([item, following])
        self._note_end(answer)
        return answer.get("seconds")

    def sample(self, calls: int) -> bool:
        """Take one sample, of so many calls, of the benchmark that has begun; False if it has ended instead.

        It ends if it fails, skips, or returns without another sample.

        Raises:
            GateError: the process has ended, or hangs.
        """
        answer = self._ask(calls)
        self._note_end(answer)
        if answer.get("error", "") is None and not answer["skipped"]:
            self.errors[self._item] = "it has ended by itself"
        return "error" not in answer

    def end(self) -> None:
        """End the benchmark that has begun, without another sample; an error at its end is noted.

        Raises:
            GateError: the process has ended, or hangs.
        """
        self._note_end(self._ask(0))

    def _note_end(self, answer: Mapping[str, Any]) -> None:
        """Note the error or the reason for a skip with which the benchmark has ended, if the answer has one."""
        for what, notes in (("error", self.errors), ("skipped", self.skipped)):
            if answer.get(what):
                notes[self._item] = answer[what]

    def _ask(self, what: object) -> dict[str, Any]:
        """Send the process a message (see `bench.regress.interleaving.Turns`), and return its answer, parsed from JSON.

        Raises:
            GateError: the process has ended, or hangs.
        """
        try:
            os.write(self._out, f"{json.dumps(what)}\n".encode())
        except BrokenPipeError:
            raise self._gone("ended early") from None
        return self._hear()

    def stop(self) -> None:
        """Give no more turns: the process writes its report and ends."""
        os.close(self._out)
        self._out = -1

    def wait(self) -> None:
        """Wait until the process has ended by itself, whatever its exit code is.

        Raises:
            GateError: it has not within `SILENCE` seconds.
        """
        try:
            self._process.wait(SILENCE)
        except subprocess.TimeoutExpired:
            raise self._gone(f"has not ended within {SILENCE:g} s of its last benchmark") from None

    def _hear(self) -> dict[str, Any]:
        """The next message from the process, parsed from its line of JSON.

        Raises:
            GateError: the process has ended, or has said nothing for `SILENCE` seconds.
        """
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], SILENCE)
            if not ready:
                raise self._gone(f"has said nothing for {SILENCE:g} s")
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                raise self._gone("ended early")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _gone(self, what: str) -> GateError:
        """The error to raise about a process that has ended or hangs, with its last output; a hanging one is killed.

        `what` says which, as the verb of the message's sentence.
        """
        if self._process.poll() is None:
            self._process.kill()
        code = self._process.wait()
        self._log.seek(0)
        last = "\n".join(self._log.read().strip().splitlines()[-15:])
        return GateError(f"{self.arm.name}: a process of pytest {what} (exit code {code}). Its last words:\n{last}")


def _variables(arm: Arm, threads: int) -> dict[str, str]:
    """The environment variables of an arm's processes.

    They are the user's, without those for git, pytest and Python, then those for steady memory and threads, then the
    arm's.
    """
    kept = {name: value for name, value in without_git(os.environ).items() if not name.startswith(("PYTEST", "PYTHON"))}
    threads_of = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return kept | {"PWD": os.fspath(arm.root)} | STEADY_MEMORY | threads_of | dict(arm.variables)
