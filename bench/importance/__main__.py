"""python -m bench.importance: do what is not done yet, then write the tables."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.importance.cases import ImportanceCase, cases
from bench.importance.options import ImportanceOptions, parse
from bench.importance.records import FAILED, OK, SCHEMA, RunError, opened, read
from bench.importance.subjects import pretrained
from bench.importance.summary import START, START_PRETRAINED, parts_of, write_docs, write_summary
from bench.importance.tables import write_tables
from bench.importance.work import do_all
from bench.measure.environment import environment
from bench.measure.files import now, write_json

BAR = "{desc} {percentage:3.0f}% after {elapsed}, about {remaining} left"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiments that the command line asks for, and write their tables and summary; returns the exit code.

    It is 0, 1 if a case failed, 2 if the directory or the page of --docs can't be used, 130 if interrupted.

    Raises:
        SystemExit: the options are wrong (exit code 2), or ask for --help.
    """
    options = parse(arguments)
    try:
        with opened(options.directory):
            return _run(options, arguments)
    except RunError as error:
        _say(str(error))
        return 2


def _run(options: ImportanceOptions, arguments: Sequence[str] | None) -> int:
    """Do the cases that are not finished yet, then write the results, also after Ctrl-C; returns the exit code.

    Raises:
        RunError: the directory holds another run (`_environment`), or the page of --docs can't be read, or has no
            markers.
    """
    start = START_PRETRAINED if all(map(pretrained, options.subjects)) else START
    if options.docs is not None:
        parts_of(options.docs, start)  # what is wrong with the page is said before hours of work, not after
    wanted = cases(options.settings, options.subjects, options.labels, options.seeds)
    facts = _environment(options, arguments)
    before = read(options.directory)
    left = [case for case in wanted if before.get(case.id, {}).get("status") != OK]
    interrupted = False
    try:
        with _Progress(wanted, left) as progress:
            do_all(options.directory, left, options.settings, options.jobs, progress.done)
    except KeyboardInterrupt:
        interrupted = True
    write_json(options.directory / "environment.json", {**facts, "finished": now(), "interrupted": interrupted}, 2)
    return _end(options, wanted, start, interrupted=interrupted)


def _end(options: ImportanceOptions, wanted: Sequence[ImportanceCase], start: str, *, interrupted: bool) -> int:
    """Write the tables and the summary from all records so far, say which cases failed, and return the exit code.

    The page of --docs is written only if the run was not `interrupted`.

    Args:
        start: the line of that page after which the summary stands.

    Raises:
        RunError: that page has no markers.
    """
    records = read(options.directory)
    write_tables(options.directory, records)
    summary = write_summary(options.directory)
    states = [records.get(case.id, {}).get("status") for case in wanted]
    for case, state in zip(wanted, states, strict=True):
        if state == FAILED:
            _say(f"failed: {case.id}: {records[case.id]['error'].strip().splitlines()[-1]}")
    if interrupted:
        _say(f"stopped; goes on with the same options and --run {options.directory}")
        return 130
    if options.docs is not None:
        write_docs(options.docs, summary, start)
    print(f"results: {options.directory}")  # noqa: T201
    return 1 if FAILED in states else 0


class _Progress:
    """A bar on stderr: how many of the wanted cases are done, and about how long the rest takes.

    Those of `wanted` that are not in `left` were done before.
    """

    def __init__(self, wanted: Sequence[ImportanceCase], left: Sequence[ImportanceCase]) -> None:
        self._total, self._finished = len(wanted), len(wanted) - len(left)
        self._bar = tqdm(total=sum(case.seconds for case in left) + 0.1, bar_format=BAR, file=sys.stderr)
        self._say("")

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def done(self, case: ImportanceCase, outcome: Mapping[str, Any]) -> None:
        """Count a case as done, and show its id, with FAILED before it if it failed."""
        self._finished += 1
        self._say(case.id if outcome["status"] == OK else f"FAILED {case.id}")
        self._bar.update(case.seconds)

    def _say(self, what: str) -> None:
        self._bar.set_description_str(f"{self._finished} of {self._total} {what}", refresh=False)


def _environment(options: ImportanceOptions, arguments: Sequence[str] | None) -> dict[str, Any]:
    """Write `environment.json` as it stands while the run is going on, and return it.

    Raises:
        RunError: the directory was begun with other settings, or its file is not of an importance run.
    """
    path = options.directory / "environment.json"
    settings = options.settings.document()
    given = sys.argv[1:] if arguments is None else arguments
    here = environment(shlex.join(["python", "-m", "bench.importance", *given]))
    created, revisions = now(), [here["revision"]]
    if path.exists():
        earlier = _earlier(path)
        if earlier["settings"] != settings:
            raise RunError(
                f"{options.directory} was begun with other settings ({earlier['settings']}); results of different "
                "settings can't stand in one table: give another --run"
            )
        created, revisions = earlier["created"], list(dict.fromkeys([*earlier["revisions"], here["revision"]]))
        if len(revisions) > 1:
            _say(f"{options.directory} holds results of {len(revisions)} revisions of the code")
    head = {"schema": SCHEMA, "created": created, "finished": None, "interrupted": False}
    document = {**head, **here, "revisions": revisions, "settings": settings, "seeds": options.seeds}
    write_json(path, document, 2)
    return document


def _earlier(path: Path) -> dict[str, Any]:
    """The settings, the time of creation and the revisions in the `environment.json` (`path`) of an earlier run.

    Raises:
        RunError: the file is no JSON, or lacks one of the three.
    """
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        return {name: earlier[name] for name in ("settings", "created", "revisions")}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not of an importance run ({error!r}); give another --run") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
