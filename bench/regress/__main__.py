"""python -m bench.regress --base origin/main: did this change make attention slower, larger or less accurate?

Exit codes: PASS 0, REGRESSED 1, wrong options 2, INCONCLUSIVE 3, ERROR 4, IMPROVED 10, NEW 11.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from bench.measure.capabilities import device
from bench.measure.files import locked, new_directory
from bench.regress.checkouts import remove
from bench.regress.errors import GateError
from bench.regress.files import write_json, write_text
from bench.regress.measuring import GateOptions
from bench.regress.preparing import Wish, alone, prepared
from bench.regress.show.junit import junit
from bench.regress.show.markdown import markdown
from bench.regress.show.terminal import show
from bench.regress.verdict import ERROR, EXIT_CODES

INTERRUPTED = 130  # as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gate as the command line asks; returns the exit code.

    It is the verdict's in `EXIT_CODES`, 0 after --record, `INTERRUPTED` after Ctrl-C, and ERROR's after a GateError or
    if the run's directory can't be written or another process holds it.

    Raises:
        SystemExit: the options are wrong (exit code 2), or ask for --help.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    directory = options.run or new_directory("gate-")
    wish = Wish(
        where=Path.cwd(),
        base=options.base,
        directory=directory.absolute(),
        options=GateOptions(
            files=tuple(options.benchmarks or GateOptions().files),
            budget=options.budget,
            threads=options.threads,
            device=options.device,
        ),
        command=shlex.join(["python", "-m", "bench.regress", *words]),
        python=options.python,
        here=options.here,
        locked=options.locked,
        without=tuple(options.without or ()),
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory):
            if options.record:
                return _record(wish, options.record)
            return _run(wish, options.baseline, keep=options.keep_checkouts)
    except GateError as error:
        say(f"error: {error}")
    except Timeout:
        say(f"error: another process writes to {directory}; wait for it, or give another --run")
    except OSError as error:
        say(f"error: --run: {directory} can't be written ({error.strerror or error}); give another")
    except KeyboardInterrupt:
        say(f"interrupted; go on by the same command with --run {directory}")
        return INTERRUPTED
    return EXIT_CODES[ERROR]


def _run(wish: Wish, stored: Path | None, *, keep: bool) -> int:
    """Measure and judge as `wish` asks, write summary.md and junit.xml, print the verdict, and return its exit code.

    Args:
        stored: the file of a stored run to compare with, instead of a base.
        keep: leave the checkouts on disk at the end.

    Raises:
        GateError: something can't be prepared, measured or written.
    """
    gate = alone(wish, stored, say) if stored else prepared(wish, say)
    verdict = gate.run()
    write_text(wish.directory / "summary.md", markdown(verdict))
    write_text(wish.directory / "junit.xml", junit(verdict))
    show(verdict)
    if not keep:
        remove(wish.where, wish.directory)
    return EXIT_CODES[verdict["verdict"]]


def _record(wish: Wish, file: Path) -> int:
    """Measure this checkout alone, store in `file` what later runs can be compared with, and return exit code 0.

    Raises:
        GateError: something can't be measured or written.
    """
    write_json(file, alone(wish, None, say).record())
    say(f"stored in {file}; compare with it by --baseline {file}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of the command line `python -m bench.regress`."""
    command = argparse.ArgumentParser(prog="python -m bench.regress", description=__doc__, allow_abbrev=False)
    command.add_argument(
        "--base", default="origin/main", metavar="COMMIT", help="branch, tag or commit to compare with"
    )
    command.add_argument(
        "--record", type=Path, metavar="FILE", help="measure this checkout alone, for a later --baseline"
    )
    command.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="compare with what --record stored instead: exact figures and ratios only, never absolute times",
    )
    command.add_argument("--run", type=Path, metavar="DIR", help="where results go; goes on there where it was cut off")
    command.add_argument(
        "--budget",
        type=seconds_above_0,
        default=600.0,
        metavar="SECONDS",
        help="for all measuring, second looks included (600)",
    )
    command.add_argument(
        "--benchmarks", action="append", metavar="FILE", help="of the head, with pytest-benchmark's fixture; repeatable"
    )
    command.add_argument("--device", type=device_here, default="cpu", metavar="NAME", help="cpu, cuda, xpu, mps (cpu)")
    command.add_argument("--threads", type=_whole, default=1, metavar="N", help="of torch, in each process (1)")
    command.add_argument(
        "--python", type=Path, default=Path(sys.executable), metavar="FILE", help="that environments are built from"
    )
    command.add_argument(
        "--here",
        action="store_true",
        help="use that interpreter as it is for both sides, without building environments",
    )
    command.add_argument(
        "--locked", action="store_true", help="that interpreter has what the head needs, from constraints.txt: reuse it"
    )
    command.add_argument(
        "--without",
        action="append",
        metavar="NAME",
        help="a benchmark that the head has no more, on purpose; repeatable",
    )
    command.add_argument("--keep-checkouts", action="store_true", help="leave DIR/sides there at the end")
    return command


def say(sentence: str) -> None:
    """Print a sentence on stderr, apart from the verdict; a pipe that nobody reads is no error."""
    with suppress(BrokenPipeError):
        sys.stderr.write(f"{sentence}\n")
        sys.stderr.flush()


def seconds_above_0(word: str) -> float:
    """Parse a finite number of seconds above 0, for argparse.

    Raises:
        ArgumentTypeError: the number is another one.
        ValueError: `word` is no number.
    """
    value = float(word)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{word} is not a number of seconds above 0")
    return value


def device_here(word: str) -> str:
    """Parse the name of a device, for argparse.

    Raises:
        ArgumentTypeError: it is none that can be used here; the message says why.
    """
    try:
        return device(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _whole(word: str) -> int:
    """Parse a whole number from 1 up, for argparse.

    Raises:
        ArgumentTypeError: the number is below 1.
        ValueError: `word` is no whole number.
    """
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a whole number from 1 up")
    return value


if __name__ == "__main__":
    sys.exit(main())
