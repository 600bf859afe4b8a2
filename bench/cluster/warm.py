"""A worker's end of the process that forks one for each case (bench/cluster/forking.py)."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from bench.cluster.errors import CaseDiedError

ROOT = Path(__file__).parents[2]


class Warm:
    """The process that is forked from, while it lives.

    Args:
        environment: variables of its environment, all of them.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        paths = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.cluster.forking"],
            cwd=ROOT,
            env={**environment, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the sweep, which then ends it
        )
        self._lock, self._numbers = threading.Lock(), count()
        self._waiting: dict[int, Future[int]] = {}
        self._ended = False
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def lives(self) -> bool:
        """Whether it can be forked from."""
        return not self._ended

    def run(self, call: str, argument: Any, log: Path, **environment: str) -> int:
        """Call a function of `bench.cluster.child` in a fork, and return its exit code, -N where signal N ended it.

        Args:
            log: the file that gets what it prints.
            environment: variables to set besides.

        Raises:
            CaseDiedError: the process that is forked from has ended.
        """
        number, answer = next(self._numbers), Future[int]()
        with self._lock:
            self._waiting[number] = answer
        self._send({"id": number, "call": call, "argument": argument, "log": str(log), "environment": environment})
        if self._ended:
            self._give_up()
        return answer.result()

    def stop(self) -> None:
        """Kill all forks that run."""
        with self._lock:
            numbers = list(self._waiting)
        for number in numbers:
            with suppress(CaseDiedError):
                self._send({"stop": number})

    def close(self) -> None:
        """End it, and all of its forks."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            with self._lock:
                self._process.stdin.write(f"{json.dumps(message)}\n".encode())
                self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise CaseDiedError("the process that starts cases has ended") from error

    def _listen(self) -> None:
        """Hand each answer to whoever waits for it, until there are no more."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                answer = json.loads(line)
                if "id" in answer:
                    with self._lock:
                        waiting = self._waiting.pop(answer["id"])
                    waiting.set_result(answer["code"])
        self._ended = True
        self._give_up()

    def _give_up(self) -> None:
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for answer in waiting:
            answer.set_exception(CaseDiedError("the process that starts cases has ended"))
