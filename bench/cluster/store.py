"""The one writer of a sweep: what workers send goes into the run directory by the rules of a single machine."""

import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.cluster.fleet import machine_name
from bench.cluster.runner import Files
from bench.measure.machine import EVERY, Check, noise
from bench.rundir.description import USUAL
from bench.rundir.directory import RunDirectory
from mha.values.atomic_files import appears_whole

OWN = USUAL["machine"]
MADE = ".made"  # folder of the run directory: what cases share, until the sweep is complete
FACTS = (
    "cpu",
    "cores",
    "threads",
    "governor",
    "memory_bytes",
    "platform",
    "python",
    "packages",
    "accelerators",
    "fingerprint",
)


class Store:
    """Writes results into a run directory.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, run: RunDirectory, clock: Callable[[], float]) -> None:
        self._run, self._clock = run, clock
        self._checked: dict[tuple[str, str], float] = {}
        self.dropped = 0  # records that were there already

    def take(self, result: Mapping[str, Any], *, timed: bool) -> None:
        """Store what a case has left, with the machine that it was measured on.

        Args:
            result: as `bench.cluster.runner.run_case` returns it.
            timed: whether the case was timed, so that it matters what else its machine did.
        """
        there = result["environment"]
        machine = self._machine(there)
        self._describe(there["tasks"])
        if timed:
            self._check(machine, result["host"], there["machine"]["checks"])
        self.dropped += self._run.take(result["files"], machine)

    def learn(self, result: Mapping[str, Any], task: str) -> None:
        """Note what the making of something has found out about its task.

        The run ends if the dense model's values are others than in an earlier part.
        """
        self._describe(result["environment"]["tasks"])
        if values := result["files"].get(f"{task}/dense/values.npy"):
            self._run.check_dense(task, np.load(io.BytesIO(values), allow_pickle=False))

    def put(self, name: str, files: Files) -> None:
        """Keep what a job has made, so that a sweep which goes on need not make it again."""
        for path, contents in files.items():
            target = self._folder(name) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with appears_whole(target) as temporary:
                temporary.write_bytes(contents)
        self._folder(name).mkdir(parents=True, exist_ok=True)
        (self._folder(name) / "complete").touch()

    def made(self, name: str) -> dict[str, bytes] | None:
        """What a job has made; None if it has not ended well, or not in this run."""
        folder = self._folder(name)
        if not (folder / "complete").exists():
            return None
        files = (path for path in folder.rglob("*") if path.is_file() and path != folder / "complete")
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def clear(self) -> None:
        """Remove what jobs have made: nothing is left to do."""
        shutil.rmtree(self._run.path / MADE, ignore_errors=True)

    def _folder(self, name: str) -> Path:
        return self._run.path / MADE / name

    def _machine(self, facts: Mapping[str, Any]) -> str:
        """The name of the machine with these facts; the first time it is met, its facts are noted."""
        if facts["fingerprint"] == self._run.environment["fingerprint"]:
            return OWN
        name, known = machine_name(facts), self._run.environment["machines"]
        if name not in known:
            about = {fact: facts.get(fact) for fact in FACTS}
            self._run.note({"machines": {**known, name: {**about, "machine": {"checks": [], "noisy": []}}}})
        return name

    def _describe(self, tasks: Mapping[str, Any]) -> None:
        """Note facts about tasks that are news; the run ends if they contradict those that are known."""
        known = self._run.environment["tasks"]
        for name, facts in tasks.items():
            news = {fact: value for fact, value in facts.items() if known.get(name, {}).get(fact) != value}
            if news:
                self._run.describe_task(name, news)

    def _check(self, machine: str, host: str, checks: list[Check]) -> None:
        """Note how quiet a machine was, about once a minute."""
        if not checks or self._clock() - self._checked.get((machine, host), -EVERY) < EVERY:
            return
        self._checked[machine, host] = self._clock()
        if machine == OWN:
            known = self._run.environment["machine"]["checks"]
            self._run.note({"machine": _watched([*known, *checks])})
        else:
            machines = self._run.environment["machines"]
            about = machines[machine]
            watched = _watched([*about["machine"]["checks"], *checks])
            self._run.note({"machines": {**machines, machine: {**about, "machine": watched}}})


def _watched(checks: list[Check]) -> dict[str, Any]:
    return {"checks": checks, "noisy": list(noise(checks))}
