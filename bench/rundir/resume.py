"""Going on in a run directory that is there already: with the same code, on the same machine, or not at all."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from filelock import BaseFileLock, Timeout

from bench.measure.environment import IDENTITY
from bench.measure.files import lock

FRESH: Mapping[str, Any] = {"finished": None, "interrupted": False}
TOLD = 8  # differences; of more only how many
GIVEN = {  # what a task gave when it was asked, by the name it has in `environment.json`
    "weights": "model() gives other weights than",
    "calibration_data": "calibration() gives other batches than",
}


def locked(path: Path) -> BaseFileLock:
    """Take the lock on a run directory, which is held until it is released or this process ends, however it ends.

    Raises:
        pytest.UsageError: another process holds it.
    """
    try:
        return lock(path)
    except Timeout:
        raise pytest.UsageError(
            f"--run: another benchmark is writing to {path}; wait until it has ended, or give another --run"
        ) from None


def continued(path: Path, earlier: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """What `environment.json` is to say: of a run that goes on, the facts of its first part, and all commands so far.

    Args:
        earlier: what it says already; None in a new run.
        now: the facts of this part.

    Raises:
        pytest.UsageError: the first part was measured by other code, on another machine or with another preset; or a
            task of both parts has changed, or has parts that can't be compared.
    """
    commands = [now["command"]] if "command" in now else []
    if earlier is None:
        return {**FRESH, **now, "commands": commands, "machine": {"checks": [], "noisy": []}, "machines": {}}
    if changes := [*_differences(earlier, now), *_changed_tasks(earlier, now)]:
        more = f"; and {len(changes) - TOLD} more" if len(changes) > TOLD else ""
        raise pytest.UsageError(
            f"--run: {path} was not measured like this: {'; '.join(changes[:TOLD])}{more}. Results of different code, "
            "machines, presets or tasks are never mixed: give another --run, or go on as it was begun"
        )
    kept = {name: {**earlier["tasks"].get(name, {}), **facts} for name, facts in now["tasks"].items()}
    return {
        **earlier,
        **FRESH,
        "dirty": now.get("dirty") or earlier.get("dirty"),
        "commands": list(dict.fromkeys([*earlier["commands"], *commands])),
        "tasks": {**earlier["tasks"], **kept},
    }


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a text for each fact of code, machine or preset that differs from an earlier part of the run."""
    for name in (*IDENTITY, "preset"):
        there, here = earlier.get(name), now.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
            yield from (_difference(f"{name}, {key}", there.get(key), here.get(key)) for key in keys)
        elif there != here:
            yield _difference(name, there, here)


def stop_mixing(path: Path, task: str, what: str) -> NoReturn:
    """End the run (`pytest.exit`), since a task gives something else than to an earlier part; `what` says what."""
    pytest.exit(
        f"--run: task {task}: {what} when the run in {path} was begun, and results of two tasks are never mixed. Seed "
        "what is random, keep what is trained and leave the task's files as they were, or give another --run",
        returncode=pytest.ExitCode.INTERRUPTED,
    )


def _changed_tasks(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a text for each part of a task that has changed since an earlier part of the run, or can't be compared."""
    for name in (name for name in now["tasks"] if name in earlier["tasks"]):
        there, here = earlier["tasks"][name], now["tasks"][name]
        yield from (f"task {name} can't be told from another ({what})" for what in here.get("uncomparable", []))
        if here.get("source") is not None and there.get("source") != here["source"]:
            yield from _changed_parts(name, there, here)


def _changed_parts(task: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Yield a text for each of a task's `parts` that has changed; `there` and `here` are its entries before and now."""
    before, after = ({"source": each.get("source"), **each.get("parts", {})} for each in (there, here))
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    for name in [name for name in changed if name != "source"] or changed:
        yield _difference(f"task {task}, {name}", before.get(name), after.get(name))


def _difference(name: str, there: Any, here: Any) -> str:
    return f"{name}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    """A value as text, "not known" for None; of a hash only the first twelve characters."""
    text = "not known" if value is None else str(value)
    return text[:12] if len(text) >= 40 and text.isalnum() else text
