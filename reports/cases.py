"""The latency cases of a run: what was timed, in how many processes, and what was not, with the reason."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.columns import check_task
from reports.errors import ReportError
from reports.files import REMEDY, Types, check_fields, check_schema, read_json
from reports.run import GENERATION, LAYER

MAYBE_TEXT = (str, type(None))
NUMBER = (int, float)
MAYBE_NUMBER = (*NUMBER, type(None))
OUTCOME: Mapping[str, Types] = {"status": str, "error": MAYBE_TEXT}
DONE, FAILED, LEFT_OUT = "ok", "failed", ("out of memory", "skipped")
CASE: Mapping[str, Types] = {
    "case": str, "kind": str, "task": str, "criterion": MAYBE_TEXT, "plan": MAYBE_TEXT,
    "kept_fraction": MAYBE_NUMBER, "heads_kept": int, "heads_total": int, "shape": list, "batch": int,
    "seq_len": (int, type(None)), "device": str, "dtype": str, "timed_by": str, "samples": list,
}  # fmt: skip
LATER: Mapping[str, tuple[Types, Any]] = {  # fields that older runs lack, and what holds for those
    "process": (int, 0), "ended": (MAYBE_TEXT, None), "warm_up": (MAYBE_NUMBER, None), "cache": (str, "warm"),
    "mode": (str, "eager"), "phase": (str, "forward"), "mask": (str, "none"), "width": (MAYBE_NUMBER, None),
    "head_dim": (MAYBE_NUMBER, None), "tokens": (MAYBE_NUMBER, None), "counts": (dict, {}), "skipped_arms": (dict, {}),
}  # fmt: skip
COUNTS = ("flops", "attention_flops", "bytes", "parameters", "peak_bytes", "cache_bytes")
SAMPLE: Mapping[str, Types] = {"arm": str, "round": int, "seconds": NUMBER}
ELSEWHERE = ("process", "samples", "counts", "skipped_arms")  # frames of their own
Outcome = tuple[Path, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Cases:
    """What `cases/` holds.

    Attributes:
        cases: one row for each finished case, as the first process that finished it wrote it.
        samples: case, arm, round, seconds, process.
        counts: case, arm, and COUNTS; NaN where a count is not known.
        skipped_arms: case, arm, reason.
        outcomes: every file with what it says.
    """

    cases: pd.DataFrame
    samples: pd.DataFrame
    counts: pd.DataFrame
    skipped_arms: pd.DataFrame
    outcomes: tuple[Outcome, ...]


def read_cases(path: Path, environment: Mapping[str, Any], *, may_be_none: bool) -> Cases:
    """Read and check `path`/cases.

    Args:
        may_be_none: the run has something else to show.

    Raises:
        ReportError: a case that is not what the schema says, the same twice, or no finished one.
    """
    outcomes = tuple(read_outcomes(path / "cases"))
    finished = [(file, _complete(file, case, environment)) for file, case in outcomes if case["status"] == DONE]
    if not finished and not may_be_none:
        raise _nothing_finished(path / "cases", outcomes)
    finished.sort(key=lambda item: item[1]["process"])
    documents = [document for _, document in finished]
    samples = [sample for file, document in finished for sample in _samples(file, document)]
    _check_names(path / "cases", finished, outcomes)
    first = list({document["case"]: document for document in reversed(documents)}.values())[::-1]
    counts = [
        (case["case"], arm, *(found.get(name) for name in COUNTS))
        for case in first
        for arm, found in case["counts"].items()
    ]
    skipped = [(case["case"], arm, str(why)) for case in first for arm, why in case["skipped_arms"].items()]
    return Cases(
        cases=_frame(first),
        samples=pd.DataFrame(samples, columns=["case", *SAMPLE, "process"]),
        counts=pd.DataFrame(counts, columns=["case", "arm", *COUNTS]).astype(dict.fromkeys(COUNTS, float)),
        skipped_arms=pd.DataFrame(skipped, columns=["case", "arm", "reason"]),
        outcomes=outcomes,
    )


def read_outcomes(folder: Path) -> Iterator[Outcome]:
    """Each file of `cases/` or `plans/`, and what it says: at the least, how that ended."""
    for file in sorted(folder.glob("*.json")):
        document = read_json(file)
        check_schema(file, document)
        check_fields(file, document, OUTCOME)
        if document["status"] not in (DONE, FAILED, *LEFT_OUT):
            known = ", ".join(f"'{status}'" for status in (DONE, FAILED, *LEFT_OUT))
            raise ReportError(f"{file}: expected one of the statuses {known}, got {document['status']!r}; {REMEDY}")
        yield file, document


def unfinished(outcomes: Mapping[str, tuple[Outcome, ...]]) -> pd.DataFrame:
    """kind, name, status, error of all that has no result; `outcomes` by kind."""
    rows = [
        (kind, file.stem, document["status"], document["error"] or "no error text")
        for kind, found in outcomes.items()
        for file, document in found
        if document["status"] != DONE
    ]
    return pd.DataFrame(rows, columns=["kind", "name", "status", "error"])


def last_line(error: Any) -> str:
    """What a traceback ends with; a sentence as it is."""
    return (str(error).strip().splitlines() or [""])[-1]


def _complete(file: Path, document: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """A finished case with all its fields, each of its type."""
    check_fields(file, document, CASE)
    later = {name: default for name, (_, default) in LATER.items() if document.get(name) is None}
    case = {**document, **later}
    check_fields(file, case, {name: types for name, (types, _) in LATER.items()})
    if case["kind"] != GENERATION:  # models that generate may be none of the tasks
        check_task(file, case["task"], {*environment["tasks"], LAYER})
    for arm, found in case["counts"].items():
        _check_counts(file, arm, found)
    if case["tokens"] is None and case["seq_len"] is not None:
        case["tokens"] = case["batch"] * case["seq_len"]
    return case


def _check_counts(file: Path, arm: str, found: Any) -> None:
    if not isinstance(found, dict):
        raise ReportError(f"{file}: expected an object for the counts of arm '{arm}', got {found!r}; {REMEDY}")
    known = {name: MAYBE_NUMBER for name in COUNTS if name in found}
    check_fields(file, found, known, where=f"counts of arm '{arm}'")


def _samples(file: Path, case: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """case, arm, round, seconds, process of each sample of a finished case."""
    if case["timed_by"] == case["case"] and not case["samples"]:
        raise ReportError(f"{file}: expected samples, for the case says it timed itself, and there are none; {REMEDY}")
    seen = set()
    for number, sample in enumerate(case["samples"]):
        check_fields(file, sample, SAMPLE, where=f"sample {number}")
        arm, turn, seconds = (sample[name] for name in SAMPLE)
        if not 0 < seconds < math.inf:  # nor is NaN
            raise ReportError(
                f"{file}: expected positive seconds, got {seconds} in round {turn} of arm '{arm}'; "
                "run the benchmark again"
            )
        if (arm, turn) in seen:
            raise ReportError(f"{file}: arm '{arm}' has round {turn} more than once; {REMEDY}")
        seen.add((arm, turn))
        yield case["case"], arm, turn, float(seconds), case["process"]


def _check_names(folder: Path, finished: list[tuple[Path, dict[str, Any]]], outcomes: tuple[Outcome, ...]) -> None:
    """A case is there once for each process, and what it says timed it is there, too."""
    names = [(document["case"], document["process"]) for _, document in finished]
    if twice := sorted({case for case, process in names if names.count((case, process)) > 1}):
        raise ReportError(f"{folder}: the cases {twice} are there more than once; {REMEDY}")
    known = {str(document.get("case") or file.stem) for file, document in outcomes}
    for file, document in finished:
        if document["timed_by"] not in known:
            raise ReportError(
                f"{file}: 'timed_by' names the case {document['timed_by']!r}, which is not among the "
                f"{len(known)} in this run; {REMEDY}"
            )


def _frame(documents: list[dict[str, Any]]) -> pd.DataFrame:
    columns = [name for name in (*CASE, *LATER) if name not in ELSEWHERE]
    cases = pd.DataFrame(documents, columns=columns)
    cases["shape"] = [tuple(shape) for shape in cases["shape"]]
    cases["seq_len"] = cases["seq_len"].astype("Int64")
    numbers = ["kept_fraction", "warm_up", "width", "head_dim", "tokens"]
    return cases.astype(dict.fromkeys(numbers, float))


def _nothing_finished(folder: Path, outcomes: tuple[Outcome, ...]) -> ReportError:
    errors = [last_line(document["error"]) for _, document in outcomes if document["error"]]
    reason = f", the first with: {errors[0]}" if errors else ""
    return ReportError(
        f"{folder}: expected at least one finished case, found none "
        f"({len(outcomes)} failed{reason}); mend what failed and run the benchmark again"
    )
