"""The command line of the importance experiments."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import tasks
from bench.importance.settings import FULL, QUICK, ImportanceSettings
from bench.importance.subjects import names, section_of, usual
from bench.importance.variants import variants
from bench.measure.files import new_directory

SECTIONS = ("exhaustive", "planted", "held_out")


@dataclass(frozen=True)
class ImportanceOptions:
    """What the command line asks for, checked.

    Attributes:
        directory: of the run.
        subjects: the names of the subjects.
        labels: of the variants by which heads are scored; None where none were named.
        seeds: how many models of each task are trained.
        jobs: how many processes work.
        docs: the page between whose markers the summary is written, if any.
    """

    directory: Path
    subjects: tuple[str, ...]
    labels: tuple[str, ...] | None
    seeds: int
    jobs: int
    settings: ImportanceSettings
    docs: Path | None


def parse(arguments: Sequence[str] | None = None) -> ImportanceOptions:
    """Parse the command line; `arguments` are those of the process unless given.

    Raises:
        SystemExit: after --help; or an option or value is not possible, and a message on stderr says what is.
    """
    parser = argparse.ArgumentParser(
        prog="nox -s importance --",
        allow_abbrev=False,
        description="Judge every importance criterion by what is known to be true. Can be stopped at any time: the "
        "same command with the same --run goes on where it stopped.",
    )
    known = tuple(variants())
    default = new_directory("importance-")
    parser.add_argument("--run", type=Path, default=default, metavar="DIR", help="default: runs/importance-<UTC>")
    parser.add_argument("--only", metavar="SECTIONS", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--tasks", metavar="NAMES", help=f"of {', '.join(names())}; default: all that are installed")
    parser.add_argument(
        "--criteria",
        metavar="NAMES",
        help=f"of {', '.join(known)}; default: all, of pretrained models without those that take hours",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="models trained of each task; default: 3")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes, one thread each; default: 2")
    parser.add_argument("--quick", action="store_true", help="tiny models: to see that everything runs")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the results between the markers of this page")
    options = parser.parse_args(arguments)
    seeds = options.seeds if options.seeds is not None else 1 if options.quick else 3
    for flag, number in (("--seeds", seeds), ("--jobs", options.jobs)):
        if number < 1:
            parser.error(f"{flag}: expected a whole number from 1 up, got {number}")
    sections = _several(parser, "--only", options.only, SECTIONS)
    asked = (
        _several(parser, "--tasks", options.tasks, names()) if options.tasks is not None else usual(quick=options.quick)
    )
    for reason in filter(None, map(tasks.missing, set(asked) & set(tasks.names()))):
        parser.error(f"--tasks: {reason}")
    subjects = [name for name in asked if section_of(name) in sections]
    if not subjects:
        parser.error(f"--tasks: none of {options.tasks} is in {', '.join(sections)}")
    labels = None if options.criteria is None else _several(parser, "--criteria", options.criteria, known)
    settings = QUICK if options.quick else FULL
    return ImportanceOptions(options.run, tuple(subjects), labels, seeds, options.jobs, settings, options.docs)


def _several(parser: argparse.ArgumentParser, flag: str, text: str | None, known: Iterable[str]) -> tuple[str, ...]:
    """The comma-separated names in `text`, each once, in the order of `known`; all known ones if `text` is None.

    Raises:
        SystemExit: a name is not known, or there is none; the message calls the option `flag`.
    """
    if text is None:
        return tuple(known)
    words = {word.strip() for word in text.split(",") if word.strip()}
    if unknown := sorted(words - set(known)):
        parser.error(f"{flag}: unknown {', '.join(unknown)}; choose from {', '.join(known)}")
    if not words:
        parser.error(f"{flag}: expected one name or several, separated by commas, got {text!r}")
    return tuple(name for name in known if name in words)
