"""Run directory -> Run. Everything that can be wrong with the files is found here, before anything is drawn.

The schema is docs/run-directory.md.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.cases import read_cases, read_outcomes, unfinished
from reports.columns import read_tables
from reports.errors import ReportError
from reports.files import (
    REMEDY,
    Types,
    check_columns,
    check_fields,
    check_schema,
    read_json,
    read_npz,
    read_parquet_columns,
)
from reports.run import AttentionExample, Run

MAYBE_TEXT = (str, type(None))
NUMBER = (int, float)
ENVIRONMENT: Mapping[str, Types] = {"schema": int, "created": str, "finished": MAYBE_TEXT, "tasks": dict}
TASK: Mapping[str, Types] = {
    "metric": str, "higher_is_better": bool, "chance": NUMBER, "batch_size": int
}  # fmt: skip
EXAMPLES = ("task", "plan", "example", "value_0")


def load(path: Path) -> Run:
    """Read and check the run directory at `path`.

    Raises:
        ReportError: not a run, a run that was cut off, or a file in it that is not what the schema says.
    """
    environment = _environment(path)
    tables = read_tables(path, environment)
    timed = read_cases(path, environment, may_be_none=not tables["operators"].empty)
    outcomes = {"latency": timed.outcomes, "accuracy": tuple(read_outcomes(path / "plans"))}
    run = Run(
        path=path,
        environment=environment,
        cases=timed.cases,
        samples=timed.samples,
        counts=timed.counts,
        skipped_arms=timed.skipped_arms,
        unfinished=unfinished(outcomes),
        **tables,
        attention=tuple(_attention(path / "attention.npz", environment)),
        notes=tuple(_notes(path, environment, timed.cases, timed.samples)),
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
    check_schema(file, environment)
    check_fields(file, environment, ENVIRONMENT)
    if environment["finished"] is None:
        raise ReportError(
            f'{path}: this run was cut off in the middle: environment.json says "finished": null, and '
            f"{len(list((path / 'cases').glob('*.json')))} cases have ended; run the benchmark again with "
            f"--run {path}, and it goes on from there"
        )
    for task, about in environment["tasks"].items():
        check_fields(file, about, TASK, where=f"task '{task}'")
    return environment


def _attention(file: Path, environment: Mapping[str, Any]) -> Iterator[AttentionExample]:
    arrays = read_npz(file) if file.is_file() else {}
    for task, about in environment["tasks"].items():
        names = [key for key in arrays if key.startswith(f"{task}/") and key.endswith("/name")]
        places = {key.removesuffix("/name"): str(arrays[key]) for key in names} or {task: ""}  # older runs have one
        for place, name in places.items():
            mine = {key.removeprefix(f"{place}/") for key in arrays if key.startswith(f"{place}/")}
            found = {key.rsplit("/", 1)[0] for key in mine if "/" in key}
            for layer in sorted(found, key=[*about.get("layers", ()), *sorted(found)].index):
                yield _attention_example(file, arrays, task, place, name, layer)


def _attention_example(
    file: Path, arrays: Mapping[str, np.ndarray], task: str, place: str, name: str, layer: str
) -> AttentionExample:
    fields = ("dense", "pruned", "heads", "queries", "keys")
    keys = {field: f"{place}/{layer}/{field}" for field in fields}
    check_columns(file, arrays, keys.values())
    dense, pruned, heads, queries, tokens = (arrays[keys[field]] for field in fields)
    h, q, k = dense.shape if dense.ndim == 3 else (0, 0, 0)
    fits = pruned.shape == (len(heads), q, k) and queries.shape == (q,) and tokens.shape == (k,)
    if dense.ndim != 3 or not fits or not set(heads.tolist()) <= set(range(h)):
        raise ReportError(
            f"{file}: '{place}/{layer}': expected dense (h, q, k), pruned (kept heads, q, k), heads below h and "
            f"labels (q,) and (k,); got {dense.shape}, {pruned.shape}, {heads.tolist()}, {queries.shape} and "
            f"{tokens.shape}; {REMEDY}"
        )
    return AttentionExample(
        task=task,
        example=name,
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


def _check_examples(file: Path) -> None:
    if file.is_file():
        check_columns(file, read_parquet_columns(file), EXAMPLES)
