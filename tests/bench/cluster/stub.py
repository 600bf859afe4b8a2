"""Cases that take no time to prepare, for tests of what a sweep does when workers, scheduler and network fail."""

import os
import signal
import time
from pathlib import Path

CODE = "STUB_CODE"  # environment variable of a worker: the hash of its source files, as it says
SLOW = "STUB_SLOW"  # by how many times it is slower than others
FACTS = {"code": "c" * 64, "python": "3.11.7", "packages": {"torch": "2.13.0+cpu"}, "fingerprint": "f" * 16}


def ask(*_):
    """What a worker says of itself."""
    code = os.environ.get(CODE, FACTS["code"])
    environment = {**FACTS, "code": code, "packages": {"torch": "2.13.0+cu126"}}
    return {"environment": environment, "devices": ["cpu"], "why_not": {}, "host": "here", "pid": os.getpid()}


def case(spec, *made):
    """A case: notes that it begins, takes its seconds, and notes that it ends.

    With `deadly` the worker is killed, the first so many times.
    """
    log = Path(spec["log"])
    pid = os.getpid()
    with log.open("a") as file:
        file.write(f"began {spec['name']} {pid}\n")
    if log.read_text().count(f"began {spec['name']} ") <= spec.get("deadly", 0):
        os.kill(pid, signal.SIGKILL)
    end = time.time() + spec["seconds"] * float(os.environ.get(SLOW, 1))
    while time.time() < end:
        time.sleep(0.01)
    with log.open("a") as file:
        file.write(f"ended {spec['name']} {pid}\n")
    return {"name": spec["name"], "pid": pid, "made": [dict(files) for files in made]}
