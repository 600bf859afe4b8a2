"""Sentences that a reader needs before comparing two sides, and the table of how their environments differ."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from reports.analyse import tables
from reports.analyse.compare.labels import subject
from reports.analyse.compare.matching import CASE, OTHER_SHAPE, PLAN, SAME_HEADS, Key, Measured
from reports.analyse.compare.sides import Side
from reports.base.formatting import count, listed
from reports.read.run import Run

ALWAYS_OTHER = ("packages", "finished")  # one by one, and of no use
OCCASION = ("started", "command", "preset")  # differ without making a number another


def notes(
    first: Side,
    second: Side,
    latencies: tuple[Mapping[Key, Measured], Mapping[Key, Measured]],
    speedups: pd.DataFrame,
    accuracies: pd.DataFrame,
    environments: pd.DataFrame,
) -> Iterator[str]:
    """The sentences that a reader needs before comparing numbers of the two sides.

    Args:
        latencies: what `matching.speedups` gives for each side.
        speedups, accuracies: what both sides have, as in `Comparison`.
        environments: the table of `differences`.
    """
    yield from _missing(first, second, latencies)
    yield from _machines(first, second, speedups, environments)
    yield from _models(first, second, speedups, accuracies)


def differences(first: Side, second: Side) -> pd.DataFrame:
    """The facts about device, machine, code, tasks and packages in which two sides differ, as texts.

    Columns: field, first, second; a fact that one side lacks is "not there". Packages are compared one by one, and the
    time at which a run ended is left out.
    """
    one, other = _fields(first), _fields(second)
    rows = [(name, one.get(name, "not there"), other.get(name, "not there")) for name in {**one, **other}]
    return pd.DataFrame([row for row in rows if row[1] != row[2]], columns=["field", "first", "second"])


def _missing(
    first: Side, second: Side, latencies: tuple[Mapping[Key, Measured], Mapping[Key, Measured]]
) -> Iterator[str]:
    """Yield sentences on cases and plans: a side without any, those of one side only, and sides that share none.

    Args:
        latencies: what `matching.speedups` gives for each side.
    """
    plans = [set(side.run.plans[PLAN].itertuples(index=False, name=None)) for side in (first, second)]
    cases = [set(measured) for measured in latencies]
    for side, plan, case in zip((first, second), plans, cases, strict=True):
        if not case:
            yield f"{side.name} has no latencies of pruned models, so no speedups are compared."
        if not plan:
            yield f"{side.name} has no plans.csv, so no accuracies are compared."
    for side, one, other in ((first, 0, 1), (second, 1, 0)):
        if (alone := cases[one] - cases[other]) and cases[other]:
            yield _only(side, "case", [_subject(key) for key in alone])
        if (unmatched := plans[one] - plans[other]) and plans[other]:
            yield _only(side, "plan", [task for task, *_ in unmatched])
    if all(cases) and not cases[0] & cases[1]:
        yield "No case was timed in both, so no speedups are compared."
    if all(plans) and not plans[0] & plans[1]:
        yield "No plan is in both, so no accuracies are compared."


def _subject(key: Key) -> str:
    """The subject, in words, of a case with this key: see `subject`."""
    kind, task, phase = (str(key[CASE.index(name)]) for name in ("kind", "task", "phase"))
    return subject(kind, task, phase)


def _only(side: Side, noun: str, subjects: Iterable[str]) -> str:
    """A sentence that counts things that only this side has: "3 cases only in RUN: 1 of bare layer, 2 of digits."

    Args:
        noun: what each thing is called, in the singular.
        subjects: the subject of each thing.
    """
    numbers = Counter(subjects)
    of = ", ".join(f"{number} of {name}" for name, number in sorted(numbers.items()))
    return f"{count(numbers.total(), noun)} only in {side.name}: {of}."


def _machines(first: Side, second: Side, speedups: pd.DataFrame, environments: pd.DataFrame) -> Iterator[str]:
    """Yield sentences on noisy machines, differing environments, and sides with a speedup from a single process."""
    for run in _runs(first, second):
        if run.noisy:
            yield f"The machine of {run.name} was noisy: {' '.join(run.noisy)}"
    differing = [name for name in environments["field"] if name not in OCCASION]
    if differing:
        yield f"The two differ in {listed(differing)}: a difference between their numbers may come from any of these."
    if len(speedups):
        for side, name in ((first, "first"), (second, "second")):
            if speedups[f"{name}_processes"].min() == 1:
                yield (
                    f"{side.name} was timed in one process, whose rounds share its luck: its intervals leave out what "
                    "varies from one process to the next, and are too narrow for a comparison with another run."
                )


def _models(first: Side, second: Side, speedups: pd.DataFrame, accuracies: pd.DataFrame) -> Iterator[str]:
    """Yield sentences on what makes models that go by the same name on both sides hard to compare.

    These are sides of one run, tasks judged by different metrics, plans that keep other heads, speedups of other
    shapes, and speedups from a single round.
    """
    if first.run is second.run:
        yield "Both are of one run, which measures accuracy once: it is the same on both sides."
    for task in (task for task in first.run.tasks if task in second.run.tasks):
        one, other = (side.run.metric(task).name for side in (first, second))
        if one != other:
            yield f"{task} is judged by {one} in {first.name} and by {other} in {second.name}: it is not compared."
    if others := int((accuracies["heads"] != SAME_HEADS).sum()):
        yield (
            f"{others} of {count(len(accuracies), 'plan')} in common keep other heads in {second.name} than in "
            f"{first.name}: what is compared of them is two models."
        )
    if others := int((speedups["heads"] == OTHER_SHAPE).sum()):
        yield f"{others} of {count(len(speedups), 'speedup')} in common are of another shape in each."
    if single := int(speedups["ratio_low"].isna().sum()):
        yield f"{count(single, 'speedup')} in common rest on a single round of one side: they have no interval."


def _fields(side: Side) -> dict[str, str]:
    """The facts that are known of a side's device, machine, code, tasks and packages: name -> text."""
    environment = side.run.environment
    packages: Mapping[str, Any] = environment.get("packages") or {}
    sources = {f"definition of {task}": known.get("source") for task, known in environment["tasks"].items()}
    fields = (
        {"device": side.device} | dict(tables.environment(environment)) | {"code": environment.get("code")} | sources
    )
    fields |= {f"package {name}": version for name, version in packages.items()}
    return {name: str(value) for name, value in fields.items() if value is not None and name not in ALWAYS_OTHER}


def _runs(first: Side, second: Side) -> tuple[Run, ...]:
    """The runs of both sides, each once."""
    return (first.run,) if first.run is second.run else (first.run, second.run)
