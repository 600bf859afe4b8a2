"""What a dask worker does for a sweep. Cases run in processes of their own; nothing here imports torch.

A worker keeps, until the sweep ends, the process that cases are forked from, and a folder with what was sent to it.
"""

import asyncio
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.cluster.errors import CaseDiedError, CaseRefusedError, OtherCodeError
from bench.cluster.warm import Warm

Files = Mapping[str, bytes]  # path, as a/b.json -> contents
RAN, REFUSED = (0, 1), (2, 4, 5)  # pytest's exit codes; 1: the case failed, and its record says how
WORDS = 6  # lines of a log that an error quotes
LAST = ("about.json", "values.npy")  # written last: where they are, all is
CACHE = "MHA_BENCH_CACHE"  # of bench.tasks._training, which imports torch
REPORTS = "reports.json"


class Bench:
    """What this worker keeps for a sweep."""

    def __init__(self, names: Sequence[str], *, nanny: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mha-bench-"))
        self._names, self._nanny = list(names), nanny
        self._lock = threading.Lock()
        self._warm: Warm | None = None
        self._facts: dict[str, Any] | None = None

    def warm(self) -> Warm:
        """The process that cases are forked from, started if there is none."""
        with self._lock:
            if self._warm is None or not self._warm.lives:
                self._warm = Warm(_without_nanny() if self._nanny else os.environ)
            return self._warm

    def facts(self) -> dict[str, Any]:
        """What `bench.cluster.child.facts` finds on this machine, and the names of host and process."""
        if self._facts is None:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            answer, log = folder / "facts.json", folder / "log"
            code = self.warm().run("facts", {"answer": str(answer), "names": self._names}, log)
            if code:
                raise CaseDiedError(f"the machine can't be looked at (exit code {code}): {_last_words(log)}")
            self._facts = json.loads(answer.read_text())
            shutil.rmtree(folder)
        return {**self._facts, "host": socket.gethostname(), "pid": os.getpid()}

    def stop(self) -> None:
        """Kill whatever runs."""
        if self._warm is not None:
            self._warm.stop()

    def close(self) -> None:
        """End all processes, and remove the folder."""
        if self._warm is not None:
            self._warm.close()
        shutil.rmtree(self.folder, ignore_errors=True)


_BENCHES: dict[str, Bench] = {}
_GUARD = threading.Lock()


def _bench(sweep: str, names: Sequence[str], worker: Any) -> Bench:
    with _GUARD:
        if sweep not in _BENCHES:
            _BENCHES[sweep] = Bench(names, nanny=worker.nanny is not None)
        return _BENCHES[sweep]


async def facts_of_worker(sweep: str, names: Sequence[str], dask_worker: Any = None) -> dict[str, Any]:
    """What a worker says of itself before it gets any case; takes as long as importing torch.

    Args:
        sweep: the name of the sweep.
        names: the dtypes and modes that may be measured.
        dask_worker: what dask gives to a parameter of this name.
    """
    return await asyncio.to_thread(lambda: _bench(sweep, names, dask_worker).facts())


def stop_sweep(sweep: str) -> None:
    """Kill all cases that run for a sweep here, and forget it: another call for it begins anew."""
    with _GUARD:
        bench = _BENCHES.pop(sweep, None)
    if bench is not None:
        bench.stop()
        bench.close()


def run_case(spec: Mapping[str, Any], *made: Files) -> dict[str, Any]:
    """Run one case in a process of its own, and return what it leaves.

    Args:
        spec: `sweep`, `names`; `code`, the hash of the source files that the sweep was started with; `preset`; `tasks`,
            what the run's environment.json says of them; `seeds`, files of the run that the case needs (path ->
            object); and the `argument` of `bench.cluster.child.case`, less the paths.
        made: files that others have made.

    Returns:
        `files`, those of the scratch run directory that the case wrote or made (path -> contents); `environment`, of
        that run; `reports`, pytest's; `began` and `seconds`; `host`.

    Raises:
        OtherCodeError: this worker has other source files.
        CaseRefusedError: pytest did not run the case, or ended the run.
        CaseDiedError: its process was killed, or ended without a result.
    """
    from distributed import get_worker

    bench = _bench(spec["sweep"], spec["names"], get_worker())
    here = bench.facts()
    if here["environment"]["code"] != spec["code"]:
        raise OtherCodeError(here["environment"]["code"])
    began = time.time()
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=bench.folder))
    try:
        return {**_ran(bench, folder, spec, made, here), "began": began, "seconds": time.time() - began,
                "host": here["host"]}  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ran(
    bench: Bench, folder: Path, spec: Mapping[str, Any], made: Sequence[Files], here: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the case in this folder, and read what it leaves there."""
    argument, making = dict(spec["argument"]), bool(spec["argument"]["make"])
    run, shelf = folder / "run", (folder if making else bench.folder) / "shelf"
    for files in made:
        _put(shelf, files)
    there = set(_paths(shelf)) if making else set()
    environment = {"schema": spec["schema"], "preset": spec["preset"], "tasks": spec["tasks"], "commands": []}
    machine: dict[str, Any] = {"machine": {"checks": [], "noisy": []}, "finished": None}
    seeds = {"environment.json": {**here["environment"], **environment, **machine}, **spec["seeds"]}
    _put(run, {name: json.dumps(document).encode() for name, document in seeds.items()})
    usual_cache = making and argument["make"]["what"] == "model"
    cache = {} if usual_cache else {CACHE: str(shelf / "models")}
    argument |= {"run": str(run), "shelf": str(shelf)}
    code = bench.warm().run("case", argument, folder / "log", **cache)
    if code not in RAN:
        words = f"pytest ended with exit code {code}: {_last_words(folder / 'log')}"
        raise (CaseRefusedError if code in REFUSED else CaseDiedError)(words)
    left = {path: (run / path).read_bytes() for path in _paths(run)}
    reports = json.loads(left.pop(REPORTS))
    known = json.loads(left.pop("environment.json"))
    if making:
        left = {path: (shelf / path).read_bytes() for path in _paths(shelf) if path not in there}
    files = {path: contents for path, contents in left.items() if path not in spec["seeds"]}
    return {"files": files, "environment": known, "reports": reports}


def _put(folder: Path, files: Files) -> None:
    """Write files below a folder, those that are not there already; each appears whole."""
    for name, contents in sorted(files.items(), key=lambda item: item[0].endswith(LAST)):
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
            temporary.write_bytes(contents)
            os.replace(temporary, path)


def _paths(folder: Path) -> list[str]:
    """The files below a folder, by their paths in it, less hidden ones and locks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path.relative_to(folder).as_posix() for path in files if path.name[0] != "." and path.suffix != ".lock"]


def _last_words(log: Path) -> str:
    """The end of a log, on one line."""
    with suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-WORDS:]) or "it has printed nothing"
    return "it has printed nothing"


def _without_nanny() -> dict[str, str]:
    """This process's environment variables, less those by which dask's nanny limits what it starts to one thread.

    What was set before the nanny was started holds.
    """
    import dask.config
    import psutil

    variables = dict(os.environ)
    try:
        before = psutil.Process(os.getppid()).environ()  # of the nanny
    except psutil.Error:
        before = {}
    for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items():
        if variables.get(name) == str(value) and name not in before:
            del variables[name]
    return variables
