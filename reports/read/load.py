"""Run directory -> Run. Everything that can be wrong with the files is found here, before anything is drawn.

The schema is docs/run-directory.md. What can't be used is left out, and the run says so.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from reports.base.errors import ReportError
from reports.base.formatting import count
from reports.read.archive import opened
from reports.read.attention import read_attention
from reports.read.cases import DONE, Cases, last_line, read_cases, read_outcomes, unfinished
from reports.read.columns import plans_table, read_tables
from reports.read.environment import read_environment
from reports.read.examples import read_examples
from reports.read.problems import Problems
from reports.read.run import Run

AT_THE_END = ("plans.csv", "examples.parquet")  # are assembled when a run ends


def load(path: Path) -> Run:
    """Read and check the run directory at `path`, or the .zip of one.

    A file that is not what the schema says is left out, or only what is wrong in it: `Run.left_out` lists that.

    Raises:
        ReportError: `path` is no run, or one of another schema, or one without any finished case, attention example or
            row of a table that can be used.
    """
    with opened(path) as directory:
        return replace(_read(directory), path=path)


def _read(path: Path) -> Run:
    """Read and check the run in the directory `path`; raises what `load` raises."""
    problems = Problems(path)
    environment = read_environment(path, problems)
    tasks = environment["tasks"]
    timed = read_cases(path / "cases", tasks, problems)
    plans, steps = (tuple(read_outcomes(path / folder, problems)) for folder in ("plans", "steps"))
    tables = read_tables(path, tasks, problems)
    from_files = environment["finished"] is None or tables["plans"].empty
    if from_files:
        done = [(file, document) for file, document in plans if document["status"] == DONE]
        tables["plans"] = plans_table(done, tasks, problems)
    attention = tuple(read_attention(path / "attention.npz", tasks, problems))
    examples = read_examples(path / "examples.parquet", problems)
    run = Run(
        path=path,
        environment=environment,
        cases=timed.cases,
        samples=timed.samples,
        counts=timed.counts,
        skipped_arms=timed.skipped_arms,
        unfinished=unfinished({"latency": timed.outcomes, "accuracy": plans, "another step": steps}),
        **tables,
        examples=examples,
        attention=attention,
        notes=(),
        left_out=problems.frame(),
    )
    _check_usable(run, tables)
    return replace(run, notes=tuple(_notes(run, timed, from_files=from_files)))


def _check_usable(run: Run, tables: Mapping[str, pd.DataFrame]) -> None:
    """Raise a ReportError if a run has no finished case, no attention example, and no row in any of its `tables`."""
    if len(run.cases) or run.attention or any(map(len, tables.values())):
        return
    ended = run.unfinished[run.unfinished["kind"] == "latency"]
    errors = [f", the first with: {last_line(error)}" for error in ended["error"]][:1]
    left = [f"; left out, among others: {row.what}: {row.reason}" for row in run.left_out.itertuples()][:1]
    remedy = (
        "mend what failed and run the benchmark again"
        if run.environment["finished"] is not None
        else 'the run was cut off ("finished": null): run the benchmark again with --run, and it goes on from there'
    )
    raise ReportError(
        f"{run.path / 'cases'}: expected at least one finished case, found none "
        f"({len(ended)} failed{''.join((*errors, *left))}); {remedy}"
    )


def _notes(run: Run, timed: Cases, *, from_files: bool) -> Iterator[str]:
    """Yield sentences about a run that was cut off or interrupted, and about files, cases and latencies that it lacks.

    Args:
        timed: what was read of `cases/`.
        from_files: whether the run's plans were taken from `plans/`, not from plans.csv.
    """
    ended = run.environment["finished"] is not None
    if not ended:
        yield (
            'The run was cut off in the middle, or is still going on: environment.json says "finished": null, and '
            f"{count(len(timed.outcomes), 'case')} had ended. The same command with --run and its directory goes on."
        )
    if run.environment.get("interrupted"):
        yield "The run was interrupted; what had been measured by then is shown."
    if ended and from_files and len(run.plans):
        yield "plans.csv has no plans that can be read; they are taken from plans/."
    for name in ("plans.csv", "scores.csv", "examples.parquet", "attention.npz"):
        made_up_for = (not ended and name in AT_THE_END) or (name == "plans.csv" and len(run.plans))
        if not (run.path / name).exists() and not made_up_for:
            yield f"The run has no {name}; what would be drawn from it is missing."
    if run.cases.empty and (len(timed.outcomes) or run.left_out["what"].str.contains("cases/").any()):
        yield "No latency case has ended well; what would be drawn from one is missing."
    untimed = run.cases.loc[~run.cases["timed_by"].isin(run.timed), "case"]
    if len(untimed):
        yield (
            f"{count(len(untimed), 'case')} {'has' if len(untimed) == 1 else 'have'} no latency, because the case that "
            "was to time the same shape failed or was left out."
        )
