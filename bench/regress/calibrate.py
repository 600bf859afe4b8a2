"""python -m bench.regress.calibrate --run DIR: how often the gate is wrong, and what it finds.

Whole real runs over two checkouts of the same code, some with a slowdown put into one of them, then many simulated runs
that draw their rounds from those of the real ones. Goes on where it was cut off.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.regress import environments
from bench.regress.__main__ import say
from bench.regress.errors import GateError
from bench.regress.files import write_json
from bench.regress.gate import Gate
from bench.regress.injecting import NOTHING, VARIABLE
from bench.regress.measuring import Options
from bench.regress.preparing import machine
from bench.regress.sides import make_sides, remove
from bench.regress.workers import Arm

NO_CHANGE = "nothing"
REAL = ("layer:0.10", "constant:0.10", "noise:0.10", "layer:0.05", "constant:0.05", "noise:0.05")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not there yet; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.regress.calibrate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="where results go, and are read from")
    parser.add_argument("--no-change", type=int, default=20, metavar="N", help="real runs without a change (20)")
    parser.add_argument("--budget", type=float, default=Options().budget, metavar="SECONDS", help="of each (600)")
    parser.add_argument("--injected", default=",".join(REAL), metavar="KINDS", help="real runs with a slowdown, as layer:0.10")
    given = parser.parse_args(arguments)
    folder = given.run.absolute()
    try:
        for name, injected in wanted(given.no_change, [word for word in given.injected.split(",") if word]):
            if not (folder / name / "verdict.json").exists():
                verdict = real_run(folder, name, injected, Options(budget=given.budget))
                say(f"{name}: {verdict['verdict']} in {verdict['seconds']:.0f} s")
        remove(Path.cwd(), folder)
    except GateError as error:
        say(f"error: {error}")
        return 1
    return 0


def wanted(no_change: int, injected: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and slowdown of each real run."""
    for number in range(no_change):
        yield f"{NO_CHANGE}-{number:02d}", NOTHING
    for number, what in enumerate(injected):
        yield f"{what.replace(':', '-')}-{number:02d}", what


def real_run(folder: Path, name: str, injected: str, options: Options) -> dict[str, Any]:
    """A whole run over the same code twice, the head slowed as said. Exact figures, the same every time, are counted once."""
    sides = make_sides(Path.cwd(), "HEAD", folder)
    python = Path(sys.executable)
    plugin = {"PYTEST_PLUGINS": "bench.regress.injecting"}
    arms = (
        Arm("base", sides.base.root, python, {**plugin, VARIABLE: NOTHING.ljust(16)}),
        Arm("head", sides.head.root, python, {**plugin, VARIABLE: injected.ljust(16)}),
    )
    facts = environments.facts(python)
    side = {"label": "HEAD", "revision": sides.head.revision, "dirty": sides.head.dirty, "python": facts["python"]}
    about = {
        "command": f"python -m bench.regress.calibrate --run {folder.name}",
        "mode": "base",
        "base": side,
        "head": side,
        "machine": machine(options.threads, facts),
    }
    gate = Gate(folder / name, arms, options, about, say=say)
    for arm in ("base", "head"):
        counted, here = folder / f"figures-{arm}.json", folder / name / f"figures-{arm}.json"
        if not counted.exists():
            plain = tuple(replace(one, variables={}) for one in arms)
            Gate(folder, plain, options, about, say=say).count()
        here.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(counted, here)
    return gate.run()


if __name__ == "__main__":
    sys.exit(main())
