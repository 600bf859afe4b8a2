"""Run directory -> Run. Everything that can be wrong with the files is found here, before anything is drawn.

The schema is docs/run-directory.md.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.errors import ReportError
from reports.files import (
    REMEDY,
    Types,
    check_columns,
    check_fields,
    read_csv,
    read_json,
    read_npz,
    read_parquet_columns,
)
from reports.run import LAYER, AttentionExample, Run

SCHEMA = 1
MAYBE_TEXT = (str, type(None))
NUMBER = (int, float)
ENVIRONMENT: Mapping[str, Types] = {"schema": int, "created": str, "finished": MAYBE_TEXT, "tasks": dict}
TASK: Mapping[str, Types] = {
    "metric": str, "higher_is_better": bool, "chance": NUMBER, "batch_size": int
}  # fmt: skip
OUTCOME: Mapping[str, Types] = {"status": str, "error": MAYBE_TEXT}
CASE: Mapping[str, Types] = {
    "case": str, "kind": str, "task": str, "criterion": MAYBE_TEXT, "plan": MAYBE_TEXT,
    "kept_fraction": (*NUMBER, type(None)), "heads_kept": int, "heads_total": int, "shape": list, "batch": int,
    "seq_len": (int, type(None)), "device": str, "dtype": str, "timed_by": str, "samples": list,
}  # fmt: skip
SAMPLE: Mapping[str, Types] = {"arm": str, "round": int, "seconds": NUMBER}
PLANS = {
    "plan": "text", "task": "text", "criterion": "text", "draw": "number", "kept_fraction": "number",
    "heads_kept": "number", "heads_total": "number", "parameters": "number", "shape": "text", "keep": "text",
    "value": "number", "low": "number", "high": "number", "difference": "number", "difference_low": "number",
    "difference_high": "number", "examples": "number",
}  # fmt: skip
SCORES = {
    "task": "text", "criterion": "text", "layer": "text", "head": "number", "score": "number", "seconds": "number"
}  # fmt: skip
PROMISES = {
    "task": "text", "promise": "text", "value": "number", "low": "number", "high": "number", "bound": "number",
    "kept": "text",
}  # fmt: skip
EXAMPLES = ("task", "plan", "example", "value_0")


def load(path: Path) -> Run:
    """Read and check the run directory at `path`.

    Raises:
        ReportError: not a run, a run that was cut off, or a file in it that is not what the schema says.
    """
    environment = _environment(path)
    outcomes = [(file, _outcome(file)) for file in sorted((path / "cases").glob("*.json"))]
    cases, samples = _cases(path, environment, outcomes)
    plans = _plans(path / "plans.csv", environment)
    run = Run(
        path=path,
        environment=environment,
        cases=cases,
        samples=samples,
        failed=_failed(path, outcomes),
        plans=plans,
        scores=_scores(path / "scores.csv", environment),
        promises=_promises(path / "promises.csv", environment),
        attention=tuple(_attention(path / "attention.npz", environment)),
        notes=tuple(_notes(path, environment, cases, samples)),
    )
    _check_examples(path / "examples.parquet")
    return run


def _environment(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing"
        raise ReportError(
            f"{path}: expected a run directory, found {what}; give the directory that the benchmark wrote"
        )
    file = path / "environment.json"
    if not file.is_file():
        raise ReportError(
            f"{path}: expected a run directory with environment.json in it, which is not there; "
            "give the directory that the benchmark wrote"
        )
    environment = read_json(file)
    _check_schema(file, environment)
    check_fields(file, environment, ENVIRONMENT)
    if environment["finished"] is None:
        raise ReportError(
            f'{path}: this run was cut off in the middle: environment.json says "finished": null, and '
            f"{len(list((path / 'cases').glob('*.json')))} cases have ended; run the benchmark again"
        )
    for task, about in environment["tasks"].items():
        check_fields(file, about, TASK, where=f"task '{task}'")
    return environment


def _check_schema(file: Path, document: Mapping[str, Any]) -> None:
    if document.get("schema") != SCHEMA:
        raise ReportError(
            f"{file}: expected schema {SCHEMA}, got {document.get('schema')!r}; use the reports that came with "
            "the benchmark which wrote this run, or run the benchmark again"
        )


def _outcome(file: Path) -> dict[str, Any]:
    document = read_json(file)
    _check_schema(file, document)
    check_fields(file, document, OUTCOME)
    if document["status"] not in ("ok", "failed"):
        raise ReportError(f"{file}: expected status 'ok' or 'failed', got {document['status']!r}; {REMEDY}")
    return document


def _cases(
    path: Path, environment: Mapping[str, Any], outcomes: list[tuple[Path, dict[str, Any]]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finished cases and their samples."""
    finished = [(file, document) for file, document in outcomes if document["status"] == "ok"]
    if not finished:
        errors = [str(document["error"]).strip().splitlines()[-1] for _, document in outcomes if document["error"]]
        reason = f", the first with: {errors[0]}" if errors else ""
        raise ReportError(
            f"{path / 'cases'}: expected at least one finished case, found none "
            f"({len(outcomes)} failed{reason}); mend what failed and run the benchmark again"
        )
    samples = [sample for file, document in finished for sample in _samples(file, document, environment)]
    names = [document["case"] for _, document in finished]
    known = {file.stem for file, _ in outcomes}
    for file, document in finished:
        if document["timed_by"] not in known:
            raise ReportError(
                f"{file}: 'timed_by' names the case {document['timed_by']!r}, which is not among the "
                f"{len(outcomes)} in this run; {REMEDY}"
            )
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ReportError(f"{path / 'cases'}: the cases {twice} are there more than once; {REMEDY}")
    cases = pd.DataFrame([document for _, document in finished], columns=list(CASE)).drop(columns="samples")
    cases["shape"] = [tuple(shape) for shape in cases["shape"]]
    cases["kept_fraction"] = cases["kept_fraction"].astype(float)
    cases["seq_len"] = cases["seq_len"].astype("Int64")
    return cases, pd.DataFrame(samples, columns=["case", *SAMPLE])


def _samples(file: Path, case: Mapping[str, Any], environment: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """case, arm, round, seconds of each sample of a finished case."""
    check_fields(file, case, CASE)
    _check_task(file, case["task"], {*environment["tasks"], LAYER})
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
        yield case["case"], arm, turn, float(seconds)


def _failed(path: Path, outcomes: list[tuple[Path, dict[str, Any]]]) -> pd.DataFrame:
    plans = [(file, _outcome(file)) for file in sorted((path / "plans").glob("*.json"))]
    rows = [
        (kind, file.stem, document["error"] or "no error text")
        for kind, documents in (("latency", outcomes), ("accuracy", plans))
        for file, document in documents
        if document["status"] == "failed"
    ]
    return pd.DataFrame(rows, columns=["kind", "name", "error"])


def _plans(file: Path, environment: Mapping[str, Any]) -> pd.DataFrame:
    if not file.is_file():
        return _empty(PLANS)
    plans = read_csv(file, PLANS)
    _check_task(file, plans["task"], environment["tasks"])
    _check_numbers(file, plans, ["draw", "kept_fraction", "heads_kept", "heads_total", "value", "low", "high"])
    return plans


def _scores(file: Path, environment: Mapping[str, Any]) -> pd.DataFrame:
    if not file.is_file():
        return _empty(SCORES)
    scores = read_csv(file, SCORES)
    _check_task(file, scores["task"], environment["tasks"])
    _check_numbers(file, scores, ["head", "score"])
    key = ["task", "criterion", "layer", "head"]
    if scores.duplicated(key).any():
        first = tuple(scores.loc[scores.duplicated(key), key].iloc[0])
        raise ReportError(f"{file}: expected one score for each head, got several for {first}; {REMEDY}")
    return scores


def _promises(file: Path, environment: Mapping[str, Any]) -> pd.DataFrame:
    if not file.is_file():
        return _empty(PROMISES)
    promises = read_csv(file, PROMISES)
    _check_task(file, promises["task"], environment["tasks"])
    return promises


def _attention(file: Path, environment: Mapping[str, Any]) -> Iterator[AttentionExample]:
    arrays = read_npz(file) if file.is_file() else {}
    for task, about in environment["tasks"].items():
        mine = {key.split("/", 1)[1] for key in arrays if key.startswith(f"{task}/")}
        found = {key.rsplit("/", 1)[0] for key in mine if "/" in key}
        for layer in sorted(found, key=[*about.get("layers", ()), *sorted(found)].index):
            yield _attention_example(file, arrays, task, layer)


def _attention_example(file: Path, arrays: Mapping[str, np.ndarray], task: str, layer: str) -> AttentionExample:
    fields = ("dense", "pruned", "heads", "queries", "keys")
    keys = {field: f"{task}/{layer}/{field}" for field in fields}
    check_columns(file, arrays, keys.values())
    dense, pruned, heads, queries, tokens = (arrays[keys[field]] for field in fields)
    h, q, k = dense.shape if dense.ndim == 3 else (0, 0, 0)
    fits = pruned.shape == (len(heads), q, k) and queries.shape == (q,) and tokens.shape == (k,)
    if dense.ndim != 3 or not fits or not set(heads.tolist()) <= set(range(h)):
        raise ReportError(
            f"{file}: '{task}/{layer}': expected dense (h, q, k), pruned (kept heads, q, k), heads below h and "
            f"labels (q,) and (k,); got {dense.shape}, {pruned.shape}, {heads.tolist()}, {queries.shape} and "
            f"{tokens.shape}; {REMEDY}"
        )
    return AttentionExample(
        task=task,
        layer=layer,
        plan=str(arrays.get(f"{task}/plan", "")),
        dense=dense.astype(float),
        pruned=pruned.astype(float),
        heads=tuple(int(head) for head in heads),
        queries=tuple(map(str, queries)),
        keys=tuple(map(str, tokens)),
    )


def _notes(path: Path, environment: Mapping[str, Any], cases: pd.DataFrame, samples: pd.DataFrame) -> Iterator[str]:
    if environment.get("interrupted"):
        yield "The run was interrupted; what had been measured by then is shown."
    for name in ("plans.csv", "scores.csv", "examples.parquet", "attention.npz"):
        if not (path / name).is_file():
            yield f"The run has no {name}; what would be drawn from it is missing."
    untimed = cases.loc[~cases["timed_by"].isin(samples["case"]), "case"]
    if len(untimed):
        count = "1 case has" if len(untimed) == 1 else f"{len(untimed)} cases have"
        yield f"{count} no latency, because the case that was to time the same shape failed."


def _empty(columns: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=str if kind == "text" else float) for name, kind in columns.items()})


def _check_examples(file: Path) -> None:
    if file.is_file():
        check_columns(file, read_parquet_columns(file), EXAMPLES)


def _check_task(file: Path, found: Any, known: Any) -> None:
    names = {found} if isinstance(found, str) else set(found)
    if unknown := sorted(names - set(known)):
        raise ReportError(
            f"{file}: expected tasks that environment.json describes ({', '.join(sorted(known))}), got "
            f"{', '.join(unknown)}; {REMEDY}"
        )


def _check_numbers(file: Path, frame: pd.DataFrame, columns: list[str]) -> None:
    for name in columns:
        wrong = ~np.isfinite(frame[name].astype(float))
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0]) + 2
            raise ReportError(
                f"{file}: expected a finite number in column '{name}', got {frame[name].iloc[line - 2]} "
                f"in line {line}; run the benchmark again"
            )
