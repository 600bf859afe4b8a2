"""`python -m bench.cluster.forking`: has imported what every case needs, and forks a process for each one.

Importing torch, pandas and pytest takes longer than many a case. This process does nothing else: whatever a case reads
or starts (options, tasks, an accelerator) is read and started in its own process.

Requests come from stdin, a line of JSON each: `{"id": …, "call": …, "argument": …, "log": path, "environment": {…}}`,
or `{"stop": id}`. Where a process has ended, a line `{"id": …, "code": …}` goes to stdout. At the end of stdin, as when
the worker has been killed, all of them are killed; and they end themselves if this process is killed.
"""

import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

NEEDED = (
    *("torch", "torch._dynamo", "torch.utils.flop_counter", "pandas", "pyarrow.parquet", "rich.console", "rich.table"),
    *("rich._emoji_codes", "mha", "bench.cluster.child", "bench.measure.environment", "bench.models.latency"),
    *("bench.models.peers", "bench.models.changes", "bench.models.attention_maps", "bench.models.random_llamas"),
    *(
        "bench.rundir.directory",
        "bench.rundir.terminal_summary",
        "bench.settings.layer_cases",
        "bench.measure.ceilings",
    ),
    *(
        "bench.settings.task_cases",
        "bench.settings.task_option",
        "bench.measure.ceilings",
        "bench.cluster.making",
        "pytest_benchmark.plugin",
    ),
)
CHUNK = 1 << 16


def main() -> None:
    """Fork for each request until there are no more."""
    for name in NEEDED:
        importlib.import_module(name)
    importlib.import_module("bench.measure.environment").cpu()
    gc.freeze()
    leash, held = os.pipe()  # its end is seen by every fork once this process, which alone holds it, has ended
    running: dict[int, tuple[int, int]] = {}  # descriptor that ends with a process -> id of its request, pid
    waiting = b""
    _answer({"ready": True})
    while True:
        ready, _, _ = select.select([0, *running], [], [])
        for descriptor in ready:
            if descriptor:
                number, pid = running.pop(descriptor)
                os.close(descriptor)
                _answer({"id": number, "code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})
                continue
            chunk = os.read(0, CHUNK)
            if not chunk:
                _kill(pid for _, pid in running.values())
                return
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if "stop" in request:
                    _kill(pid for number, pid in running.values() if number == request["stop"])
                else:
                    ended, pid = _forked(request, leash, held)
                    running[ended] = request["id"], pid


def _forked(request: dict[str, Any], leash: int, held: int) -> tuple[int, int]:
    """Fork a process for a request: a descriptor that has an end once it has ended, and its pid."""
    ended, ends = os.pipe()
    if pid := os.fork():
        os.close(ends)
        with suppress(OSError):  # it may be the first to do so, or have ended
            os.setpgid(pid, pid)
        return ended, pid
    code = 70
    try:
        os.setpgid(0, 0)
        os.close(held)
        code = _run(request, leash)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(request: dict[str, Any], leash: int) -> int:
    """What a fork does: call a function of `bench.cluster.child`; its exit code."""
    threading.Thread(target=_end_with, args=(leash,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for standard in (1, 2):
        os.dup2(log, standard)
    os.environ.update(request["environment"])
    os.chdir(Path(__file__).parents[2])
    gc.unfreeze()
    child: Any = importlib.import_module("bench.cluster.child")
    return int(child.CALLS[request["call"]](request["argument"]))


def _end_with(leash: int) -> None:
    """Wait until the process that was forked from has ended, and end this one and what it has started."""
    os.read(leash, 1)
    os.killpg(0, signal.SIGKILL)


def _kill(pids: Any) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _answer(value: dict[str, Any]) -> None:
    os.write(1, f"{json.dumps(value)}\n".encode())


if __name__ == "__main__":
    main()
