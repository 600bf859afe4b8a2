"""python -m bench.accelerator -o RUN: what there is to measure on a GPU, in one command of minutes.

The layer beside its peers and sliced, in three dtypes, eager, compiled and as CUDA graphs; padded batches beside nested
tensors; ceilings; prefill and decode of Llamas of 1 billion and of 135 million parameters, dense and half; predicted
beside measured latency; the tests that need a GPU; profiles of what misses its target; the regression gate without a
change and with 10 % put in. It needs torch and the packages of the extra `bench`; what else is missing is left out by
name. Leaves the run directory RUN, RUN-more beside it, and RUN.zip with both.
"""

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from packaging.version import Version

from bench.accelerator import targets
from bench.accelerator.parts import Outcome, parts, run_parts
from bench.measure.capabilities import device
from bench.measure.files import LOCK, new_directory

OLDEST = Version("2.11")
SECONDS = 460.0
LEFT_OUT = ("sides", "figures")  # folders of the gate that hold checkouts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, print how the targets were met, and pack the results; returns the exit code.

    It is 0, or 1 where a part failed; parts that were left out or ran out of time are no failure.
    """
    options = parser().parse_args(arguments)
    if (why := unfit(options.device)) is not None:
        say(f"error: {why}")
        return 2
    run = (options.output or new_directory("accelerator-")).absolute()
    beside = run.with_name(f"{run.name}-more")
    beside.mkdir(parents=True, exist_ok=True)
    wanted = [
        part
        for part in parts(run, device(options.device), quick=options.quick, tasks=options.task or ())
        if not options.only or part.name in options.only
    ]
    outcomes: list[Outcome] = []
    try:
        for outcome in run_parts(wanted, options.seconds, say):
            outcomes.append(outcome)
            say(line(outcome))
            targets.dump(run, beside / "targets.json", outcomes)
    finally:
        for row in targets.summary(run):
            say(row)
        pack(run, beside, run.with_name(f"{run.name}.zip"))
    for outcome in outcomes:
        say(line(outcome))
    return int(any(outcome["status"] == "failed" for outcome in outcomes))


def line(outcome: Outcome) -> str:
    """What became of a part, as a line for the terminal."""
    return f"{outcome['part']}: {outcome['status']} in {outcome['seconds']:.0f} s. {outcome['why'] or ''}".rstrip()


def parser() -> argparse.ArgumentParser:
    """The parser of the command line `python -m bench.accelerator`."""
    command = argparse.ArgumentParser(
        prog="python -m bench.accelerator",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("-o", "--output", type=Path, metavar="RUN", help="run directory; default: runs/accelerator-…")
    command.add_argument("--device", default="cuda", metavar="NAME", help="cuda, cuda:1, xpu (cuda)")
    command.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="for everything (460)")
    command.add_argument("--task", action="append", metavar="TASK", help="a model with weights too, as sentences")
    command.add_argument("--only", action="append", metavar="PART", help="only the part of this name; repeatable")
    command.add_argument("--quick", action="store_true", help="next to nothing of each, also on the CPU (--device cpu)")
    return command


def unfit(name: str) -> str | None:
    """Why nothing can be measured here: torch is too old, or there is no such device; None if something can."""
    if Version(torch.__version__).release < OLDEST.release:
        return f"torch {torch.__version__} is installed, and {OLDEST} or newer is needed: pip install -U torch"
    try:
        device(name)
    except ValueError as error:
        return f"--device: {error}; --quick --device cpu shows on a CPU that everything works"
    return None


def pack(run: Path, beside: Path, archive: Path) -> None:
    """Put the run directory, at the top, and the folder beside it, as more/, into one .zip."""
    partial = archive.with_name(f".{archive.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as packed:
        for folder, name in ((run, ""), (beside, "more/")):
            for path in sorted(folder.rglob("*")):
                inside = path.relative_to(folder)
                if path.is_file() and path.name != LOCK and not set(inside.parts) & {*LEFT_OUT}:
                    packed.write(path, f"{name}{inside.as_posix()}")
    partial.replace(archive)
    say(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB")


def say(sentence: str) -> None:
    """Print a sentence at once."""
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
