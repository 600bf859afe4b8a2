"""The latency cases of a run: what was timed, in how many processes, and what was not, with the reason."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.read.columns import PLANS, check_task
from reports.read.description import CASE, COUNTS, RECORD, STATUSES, Fields, optional, required
from reports.read.files import (
    REMEDY,
    check_choice,
    check_fields,
    check_items,
    check_numbers,
    check_schema,
    printable,
    read_json,
)
from reports.read.intake import MOST_RECORDS, MOST_SAMPLES, check_count, check_size, files_in
from reports.read.problems import Problems
from reports.read.run import GENERATION, LAYER
from reports.read.samples import Timed, columns_of, usable

DONE, FAILED, *LEFT_OUT = STATUSES
KINDS = CASE["kind"].values
UNREAD = ("length",)  # what was asked for; what came of it is seq_len
KEPT: Fields = {name: field for name, field in CASE.items() if name not in UNREAD}
REQUIRED, OPTIONAL = required(KEPT), optional(KEPT)
OUTCOME = {name: field.types for name, field in RECORD.items() if name != "schema"}
LATER = {name: field.missing for name, field in KEPT.items() if field.optional}  # what holds where older runs lack it
LEAST = {name: field.least for name, field in KEPT.items() if field.least is not None}
MAYBE_NUMBERS = [name for name, field in KEPT.items() if field.kind == "number or null"]
ELSEWHERE = ("process", "samples", "counts", "skipped_arms")  # frames of their own
PROCESS = re.compile(r"\+\d+$")  # what the file of a later process adds to the name of its case
KNOWN = frozenset({*RECORD, *KEPT, *PLANS})  # what is kept of a file
Outcome = tuple[Path, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Cases:
    """What the files of `cases/` hold, without what is wrong in them.

    Attributes:
        cases: one row for each finished case, as the first process that finished it wrote it.
        samples: the samples of finished cases, a row each; columns: case, arm, round, seconds, process.
        counts: a row for each case and arm that has counts; columns: case, arm and COUNTS (flops, bytes, …); NaN where
            one is not known.
        skipped_arms: a row for each arm that a case left out; columns: case, arm, reason.
        outcomes: (path, content) of every file that says how its case ended, whether it finished or not.
    """

    cases: pd.DataFrame
    samples: pd.DataFrame
    counts: pd.DataFrame
    skipped_arms: pd.DataFrame
    outcomes: tuple[Outcome, ...]


def read_cases(folder: Path, tasks: Collection[str], problems: Problems) -> Cases:
    """Read and check the folder `cases/` of a run; what is wrong in it is left out, and `problems` is told.

    What is left out is a whole file, a case whose samples are all wrong, or single rounds of its samples.

    Args:
        folder: the path of `cases/`, which may be missing.
        tasks: the names of the tasks that environment.json describes; cases of others are left out.
    """
    outcomes, timed, count = [], [], 0
    for file, document in read_outcomes(folder, problems):
        outcomes.append((file, document))
        if document["status"] == DONE:
            with problems.noted(file):
                case = _timed(file, document, tasks)
                check_count(file, count + len(case.columns["arm"]), MOST_SAMPLES, "samples in all cases")
                count += len(case.columns["arm"])
                timed.append(case)
        document.pop("samples", None)  # they are columns now
    known = {PROCESS.sub("", file.stem) for file in records_in(folder, Problems(folder))}
    known |= {str(document["case"]) for _, document in outcomes if "case" in document}
    timed = [*_of_known(timed, known, problems)]
    timed = sorted(_once(timed, problems), key=lambda item: item.case["process"])
    timed, samples = usable(timed, problems)
    first = list({item.case["case"]: item.case for item in reversed(timed)}.values())[::-1]
    counts = [
        (case["case"], arm, *(each.get(name) for name in COUNTS))
        for case in first
        for arm, each in case["counts"].items()
    ]
    skipped = [(case["case"], arm, str(why)) for case in first for arm, why in case["skipped_arms"].items()]
    return Cases(
        cases=_frame(first),
        samples=samples,
        counts=pd.DataFrame(counts, columns=["case", "arm", *COUNTS]).astype(dict.fromkeys(COUNTS, float)),
        skipped_arms=pd.DataFrame(skipped, columns=["case", "arm", "reason"]),
        outcomes=tuple(outcomes),
    )


def read_outcomes(folder: Path, problems: Problems) -> Iterator[Outcome]:
    """Yield (path, content) for each .json of `folder` that has the fields of a record: schema, status and error.

    A file is left out, and `problems` told, if it can't be read, is of another schema, has another status than
    STATUSES, or goes beyond the limit on all bytes of the folder. Of the content, only fields that readers use are kept
    (KNOWN).

    Args:
        folder: the path of `cases/`, `plans/` or `steps/`, which may be missing.
    """
    total = 0
    for file in records_in(folder, problems):
        with problems.noted(file):
            total += file.lstat().st_size
            check_size(file, total, MOST_RECORDS, f" in all of {folder.name}/")
            document = read_json(file)
            check_schema(file, document)
            check_fields(file, document, OUTCOME)
            check_choice(file, "statuses", document["status"], STATUSES)
            yield file, {name: value for name, value in document.items() if name in KNOWN}


def records_in(folder: Path, problems: Problems) -> list[Path]:
    """The paths of the .json files directly in `folder`, sorted by name; none where there is no folder.

    There are none either where it is a link, a file, or has too many files; `problems` is then told.
    """
    with problems.noted(folder):
        return files_in(folder, ".json")
    return []


def unfinished(outcomes: Mapping[str, tuple[Outcome, ...]]) -> pd.DataFrame:
    """The outcomes whose status is not "ok" (failed, out of memory, skipped) as a table, a row each.

    Args:
        outcomes: kind, which is "latency", "accuracy" or "another step" -> (path, content) of each file
            (`read_outcomes`).

    Returns:
        The columns kind, name (that of the file without .json), status and error ("no error text" where it has none).
    """
    rows = [
        (kind, printable(file.stem), document["status"], document["error"] or "no error text")
        for kind, several in outcomes.items()
        for file, document in several
        if document["status"] != DONE
    ]
    return pd.DataFrame(rows, columns=["kind", "name", "status", "error"])


def last_line(error: Any) -> str:
    """The last line of an error's text, which in a traceback is the line with the error itself; "" of an empty text."""
    return (str(error).strip().splitlines() or [""])[-1]


def _timed(file: Path, document: Mapping[str, Any], tasks: Collection[str]) -> Timed:
    """The finished case in `document`, the content of `file`: its fields, with defaults for those that older runs lack.

    Raises:
        ReportError: a field is missing, or its value has a wrong type or is too small; the kind is unknown, or the
            task, unless the case is of generation, not one of `tasks` (for the bare layer: not LAYER); or a sample is
            wrong.
    """
    check_fields(file, document, REQUIRED)
    case = {**document, **{name: default for name, default in LATER.items() if document.get(name) is None}}
    check_fields(file, case, OPTIONAL)
    check_numbers(file, case, LEAST)
    check_items(file, case["shape"], int, "'shape'")
    check_choice(file, "kinds", case["kind"], KINDS)
    if case["kind"] != GENERATION:  # models that generate may be none of the tasks
        check_task(file, case["task"], {LAYER} if case["kind"] == LAYER else tasks)
    for arm, counts in case["counts"].items():
        _check_counts(file, counts, f"counts of arm '{arm}'")
    if case["tokens"] is None and case["seq_len"] is not None:
        case["tokens"] = case["batch"] * case["seq_len"]
    return Timed(file, {**case, "samples": ()}, columns_of(file, case))


def _of_known(timed: Sequence[Timed], known: Collection[str], problems: Problems) -> Iterator[Timed]:
    """Yield the timed cases whose `timed_by` is one of `known`, the names of all cases of the run, finished or not.

    `problems` is told of each other one, which is left out.
    """
    for item in timed:
        if item.case["timed_by"] in known:
            yield item
        else:
            which = f"'timed_by' names the case {item.case['timed_by']!r:.60}, which is not among the {len(known)} in"
            problems.add(item.file, f"{which} this run; {REMEDY}")


def _check_counts(file: Path, counts: Any, where: str) -> None:
    """Raise a ReportError unless what was counted of one arm is an object whose known fields are numbers or null.

    Known are the fields of COUNTS (FLOPs, bytes, …); their numbers must be finite and at least 0. Others may be
    anything.

    Args:
        where: what errors call the object.
    """
    check_fields(file, counts, {}, where)
    known = {name: count for name, count in COUNTS.items() if name in counts}
    check_fields(file, counts, {name: count.types for name, count in known.items()}, where)
    check_numbers(file, counts, {name: count.least for name, count in known.items()}, where)


def _once(timed: Sequence[Timed], problems: Problems) -> Iterator[Timed]:
    """Yield each case once for each process: of several files of it the one that is named after it, else the first.

    `problems` is told of the others, which are left out.
    """
    chosen: dict[tuple[str, int], Timed] = {}
    for item in sorted(timed, key=lambda item: not _is_named_after(item)):
        if (first := chosen.setdefault(item.key, item)) is not item:
            case, process = item.key
            also = f"the case '{case}' of process {process} is there more than once, in {first.file.name}, too"
            problems.add(item.file, f"{also}; {REMEDY}")
    yield from (item for item in timed if chosen[item.key] is item)


def _is_named_after(item: Timed) -> bool:
    case, process = item.key
    return item.file.stem == (f"{case}+{process}" if process else case)


def _frame(documents: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table of finished cases, a row for each of `documents`, without fields that have tables of their own.

    `shape` becomes a tuple, `seq_len` a nullable integer, and numbers that may be null become floats.
    """
    columns = [name for name in (*REQUIRED, *LATER) if name not in ELSEWHERE]
    cases = pd.DataFrame(documents, columns=columns)
    cases["shape"] = [tuple(shape) for shape in cases["shape"]]
    cases["seq_len"] = cases["seq_len"].astype("Int64")
    return cases.astype(dict.fromkeys(MAYBE_NUMBERS, float))
