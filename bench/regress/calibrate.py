"""python -m bench.regress.calibrate --run DIR: how often the gate is wrong, and what it finds.

Whole real runs over two checkouts of the same code, some with a slowdown put into one of them; then many simulated runs
that draw their rounds from the real ones (bench/regress/simulating.py). Goes on where it was cut off.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.regress import environments
from bench.regress.__main__ import device_here, say, seconds_above_0
from bench.regress.checkouts import Checkouts, make_checkouts, remove
from bench.regress.device import VARIABLE as DEVICE
from bench.regress.errors import GateError
from bench.regress.files import write_json
from bench.regress.gate import NO_FIGURES, Gate
from bench.regress.injecting import NOTHING, VARIABLE
from bench.regress.measuring import GateOptions
from bench.regress.preparing import machine
from bench.regress.simulating import published
from bench.regress.workers import Arm

NO_CHANGE = "no-change"
LOADED = "loaded"  # beside as many busy processes as there are cores
REAL = ("layer:0.10", "constant:0.10", "noise:0.10", "layer:0.05", "noise:0.05", "layer:0.20", "layer:0.02")
LENGTH = 16  # of what is put in, in every arm: the size of the environment moves the stack, and so times


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the real runs of the gate that have no verdict yet, then the simulated ones; return the exit code.

    It is 0, or 1 if a GateError stopped them. The checkouts are removed only at the end.
    """
    options = parser().parse_args(arguments)
    folder = options.run.absolute()
    try:
        calibration = Calibration(
            folder,
            make_checkouts(Path.cwd(), "HEAD", folder),
            GateOptions(budget=options.budget, device=options.device, seconds=options.seconds),
            exact=options.exact,
        )
        injected = [word for word in options.injected.split(",") if word]
        for name, what in wanted(options.no_change, injected, options.loaded):
            if not (folder / name / "verdict.json").exists():
                with busy(os.cpu_count() or 1) if name.startswith(LOADED) else nullcontext():
                    verdict = calibration.run(name, what)
                say(f"{name}: {verdict['verdict']} in {verdict['seconds']:.0f} s")
        if options.simulated:
            say(published(folder, options.simulated))
    except GateError as error:
        say(f"error: {error}")
        return 1
    remove(Path.cwd(), folder)
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of the command line `python -m bench.regress.calibrate`."""
    command = argparse.ArgumentParser(prog="python -m bench.regress.calibrate", description=__doc__, allow_abbrev=False)
    command.add_argument("--run", type=Path, required=True, metavar="DIR", help="where results go, and are read from")
    command.add_argument("--no-change", type=int, default=20, metavar="N", help="real runs without a change (20)")
    command.add_argument(
        "--injected", default=",".join(REAL), metavar="KINDS", help=f"real runs slowed ({','.join(REAL)})"
    )
    command.add_argument("--loaded", type=int, default=2, metavar="N", help="real runs beside other work (2)")
    command.add_argument(
        "--simulated", type=int, default=500, metavar="N", help="simulated runs of each slowdown (500); 0 for none"
    )
    command.add_argument(
        "--budget", type=seconds_above_0, default=GateOptions().budget, metavar="SECONDS", help="each (600)"
    )
    command.add_argument("--device", type=device_here, default="cpu", metavar="NAME", help="cpu, cuda, xpu, mps (cpu)")
    command.add_argument(
        "--seconds",
        type=seconds_above_0,
        default=GateOptions().seconds,
        metavar="SECONDS",
        help="of sampling for each benchmark in a round (0.3)",
    )
    command.add_argument("--no-exact", dest="exact", action="store_false", help="time only: count no exact figures")
    return command


def wanted(no_change: int, injected: Sequence[str], loaded: int) -> Iterator[tuple[str, str]]:
    """Yield for each real run its name, and the slowdown to put into its head, such as "layer:0.10".

    Args:
        no_change: how many runs have no slowdown.
        injected: the slowdowns, each for one run.
        loaded: how many runs have no slowdown, but other processes that keep all cores busy.
    """
    for number in range(no_change):
        yield f"{NO_CHANGE}-{number:02d}", NOTHING
    for number, what in enumerate(injected):
        yield f"{what.replace(':', '-')}-{number:02d}", what
    for number in range(loaded):
        yield f"{LOADED}-{number:02d}", NOTHING


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Within the context keep `count` cores busy with orphaned processes, whose load so counts as other people's."""
    orphan = '"$0" -c "while True: pass" > /dev/null 2>&1 & echo $!'
    with ExitStack() as stack:
        for _ in range(count):
            started = subprocess.run(["sh", "-c", orphan, sys.executable], check=True, capture_output=True, text=True)
            stack.callback(os.kill, int(started.stdout), signal.SIGKILL)
        yield


@dataclass(frozen=True)
class Calibration:
    """Real runs of the gate that all compare the same two checkouts.

    Attributes:
        folder: has a subfolder for each run.
        checkouts: of the same code.
        options: how each run measures and judges.
        exact: whether exact figures are counted and compared, too.
    """

    folder: Path
    checkouts: Checkouts
    options: GateOptions
    exact: bool = True

    def run(self, name: str, injected: str) -> dict[str, Any]:
        """Run the gate in the subfolder `name`, with the slowdown `injected` in the head; returns its verdict.json.

        Exact figures are the same in every run, and so counted only once.

        Raises:
            GateError: something can't be measured or written.
        """
        here = self.folder / name
        here.mkdir(parents=True, exist_ok=True)
        for arm in ("base", "head"):
            counted = self.folder / f"figures-{arm}.json"
            if not self.exact:
                write_json(counted, NO_FIGURES)
            elif not counted.exists():
                self._gate(self.folder, NOTHING).count()
            shutil.copy(counted, here)
        return self._gate(here, injected).run()

    def _gate(self, directory: Path, injected: str) -> Gate:
        python = Path(sys.executable)
        facts = environments.facts(python)
        head = self.checkouts.head
        side = {"label": "HEAD", "revision": head.revision, "dirty": head.dirty, "python": facts["python"]}
        about = {
            "command": f"python -m bench.regress.calibrate --run {self.folder.name}",
            "mode": "base",
            "base": side,
            "head": side,
            "machine": machine(self.options, facts),
        }
        arms = self._arm("base", python, NOTHING), self._arm("head", python, injected)
        return Gate(directory, arms, self.options, about, say=say)

    def _arm(self, name: str, python: Path, injected: str) -> Arm:
        variables = {
            "PYTEST_PLUGINS": "bench.regress.injecting",
            VARIABLE: injected.ljust(LENGTH),
            DEVICE: self.options.device,
        }
        return Arm(name, getattr(self.checkouts, name).root, python, variables)


if __name__ == "__main__":
    sys.exit(main())
