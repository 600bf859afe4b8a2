"""The commands that make a run again, as one would type them."""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

SESSIONS = {  # what a command begins with -> the session that runs it
    "pytest bench/profiles.py --benchmark-disable": "profile",
    "pytest bench": "bench",
    "python -m bench.importance": "importance",
    "python -m bench.runtimes": "runtimes",
}


def again(environment: Mapping[str, Any]) -> tuple[str, ...]:
    """The commands that make a run again, from its environment.json: to check out its code, then to measure it."""
    revision = environment.get("revision")
    commands = environment.get("commands") or [environment.get("command")]
    first = (f"git checkout {shlex.quote(str(revision))}",) if revision else ()
    # torch takes a thread for each core unless it is told otherwise
    threads, cores = environment.get("threads"), environment.get("cores")
    start = f"OMP_NUM_THREADS={threads} " if threads and threads != cores else ""
    return (*first, *(start + command for command in _folded([str(command) for command in commands if command])))


def _folded(commands: list[str]) -> Iterator[str]:
    """Yield the commands as nox runs them; those that differ only by their `--process N` become one."""
    processes: dict[str, int] = {}
    for command in commands:
        plain = re.sub(r" --process \d+", "", command)
        processes[plain] = processes.get(plain, 0) + ("--process " in command)
    for plain, number in processes.items():
        yield _with_nox(plain, number)


def _with_nox(command: str, processes: int) -> str:
    """The command as nox runs it, with `processes` processes if several; the command itself if no session runs it."""
    for start, session in SESSIONS.items():
        if command == start or command.startswith(f"{start} "):
            several = [f"--processes {processes}"] if processes > 1 else []
            arguments = [*several, *filter(None, [command.removeprefix(start).strip()])]
            return " ".join([f"nox -s {session}", *(["--", *arguments] if arguments else [])])
    return command
