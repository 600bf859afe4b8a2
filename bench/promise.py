"""Whether `mha.certify` keeps its promise, and what that costs: tried on what the reference tasks' models answer.

    python -m bench.promise -o DIR

Each task's model is pruned to a ladder of budgets, raw and repaired, and every held-out example judged: `TASK.npz`,
which a later call reads again. These examples are then taken for all that there are. Many times over, some of them are
drawn, and the boldest step of the ladder is chosen by those: as `mha.certify` does, and as one does who trusts what is
seen. `promise.csv` says how often the step that was chosen loses more than was allowed, of all examples, and how many
heads it removes beside the boldest that does not. Losses of a perplexity, or another metric that is no mean, are shares
of the dense model's; such metrics are tried in a fifth of the draws, since each takes resamples.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

import mha
from bench import tasks
from bench.measure.row_tables import say, write_csv
from bench.measure.threads import one_thread
from bench.models.experiment import DENSE, Experiment
from mha.certifying.evidence import Comparison, comparison_of
from mha.certifying.judge import Metric, metric_of
from mha.certifying.selection import last_shown, verdicts
from mha.tasks import Task
from mha.values.atomic_files import appears_whole

KEEP = 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3
ARMS = "raw", "repaired"
AT_MOST = 0.01, 0.02, 0.05
HARDEST = 0.004, 0.06  # losses of a step between which `at_most` is also set just below it
EXAMPLES = 300, 1000
DRAWS = 1000
RISK = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """All examples that there are, as judged by the dense model and by the steps of a ladder.

    Attributes:
        dense: (n,) or (n, k).
        steps: arm -> (steps, n) or (steps, n, k), the mildest first.
        removed: the share of the heads that each step removes, (steps,).
    """

    dense: Floats
    steps: dict[str, Floats]
    removed: Floats

    def save(self, path: Path) -> None:
        """Write it to `path`; the file appears whole or not at all."""
        arrays: dict[str, Any] = {"dense": self.dense, "removed": self.removed, **self.steps}
        with appears_whole(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(file["dense"], {arm: file[arm] for arm in ARMS if arm in file}, file["removed"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m bench.promise`: judge, draw, write the table, print a line for each row and a verdict."""
    parser = argparse.ArgumentParser(prog="python -m bench.promise", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tasks", nargs="*", default=tasks.usual(), choices=tasks.names())
    parser.add_argument("--criterion", default="leave_one_out", choices=mha.criteria())
    parser.add_argument("--arms", nargs="*", default=ARMS, choices=ARMS, help="whether to repair what is pruned")
    parser.add_argument("--keep", type=float, nargs="*", default=KEEP, help="shares of the heads that the steps keep")
    parser.add_argument("--examples", type=int, nargs="*", default=EXAMPLES, help="how many examples are drawn")
    parser.add_argument("--draws", type=int, default=DRAWS)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with one_thread():
        for task in map(tasks.load, options.tasks):
            for row in _rows(task, options):
                rows.append(row)
                write_csv(options.output / "promise.csv", rows)
                say(_line(row))
    for line in verdict(rows):
        say(line)


def _rows(task: Task, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Two rows, certified and naive, for each arm, allowed loss and number of examples of one task."""
    path = options.output / f"{task.name}.npz"
    if not path.exists():
        judged(task, options.criterion, options.keep, options.arms).save(path)
    population, metric = Population.load(path), metric_of(task)
    for arm in population.steps:
        losses = losses_of(metric, population.dense, population.steps[arm])
        for at_most, hardest in allowed(losses):
            for examples in options.examples:
                where = {"task": task.name, "arm": arm, "at_most": at_most, "hardest": hardest, "examples": examples}
                for row in tried(metric, population, arm, at_most, examples, options.draws):
                    yield {**where, **row}


def judged(task: Task, criterion: str, keep: Sequence[float], arms: Sequence[str]) -> Population:
    """All examples of a task as judged by its model, and by that model pruned by a criterion, raw and repaired."""
    experiment = Experiment(task)
    batches, model = list(task.calibration()), experiment.model()
    plans = [experiment.plan(criterion, share) for share in sorted(keep, reverse=True)]
    total = sum(map(len, experiment.plan(DENSE, 1.0).values()))
    steps: dict[str, list[Floats]] = {arm: [] for arm in ARMS if arm in arms}
    for plan in plans:
        small = experiment.pruned(plan)
        if "raw" in steps:
            steps["raw"].append(np.asarray(task.evaluate(small), dtype=float))
        if "repaired" in steps:
            small = mha.compensate(small, model, batches, task.forward, progress=False)
            steps["repaired"].append(np.asarray(task.evaluate(small), dtype=float))
    return Population(
        dense=experiment.dense_values(),
        steps={arm: np.stack(values) for arm, values in steps.items()},
        removed=np.array([1 - sum(map(len, plan.values())) / total for plan in plans]),
    )


def losses_of(metric: Metric, dense: Floats, steps: Floats) -> Floats:
    """What the metric loses at each step, positive is worse: (steps,); of one that is no mean, as shares of dense."""
    whole = metric.of(dense)
    unit = (1 if metric.higher_is_better else -1) * (1 if metric.aggregate is None else 1 / whole)
    return np.array([unit * (whole - metric.of(values)) for values in steps])


def allowed(losses: Floats) -> list[tuple[float, bool]]:
    """The losses that are tried as `at_most`, and whether each is the hardest kind: just below what some step loses."""
    low, high = HARDEST
    hard = [float(np.nextafter(loss, 0)) for loss in losses if low <= loss <= high]
    return [(value, False) for value in AT_MOST] + [(value, True) for value in sorted(set(hard))]


def tried(
    metric: Metric, population: Population, arm: str, at_most: float, examples: int, draws: int, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Draw examples many times, and choose a step each time: a row for "certified", and one for "naive".

    Args:
        at_most: the loss that is allowed.
        examples: how many are drawn each time, each independently of all others.
    """
    dense, steps = population.dense, population.steps[arm]
    comparison = comparison_of(metric, dense, None, metric.aggregate is not None, at_most, seed)
    breaks = losses_of(metric, dense, steps) > at_most
    rng, draws = np.random.default_rng(seed), draws if metric.aggregate is None else draws // 5
    places: dict[str, list[int | None]] = {"certified": [], "naive": []}
    for _ in range(draws):
        drawn = rng.integers(len(dense), size=examples)
        places["certified"].append(_certified(comparison, dense[drawn], steps[:, drawn], at_most))
        places["naive"].append(_boldest(losses_of(metric, dense[drawn], steps[:, drawn]) <= at_most))
    best = _removed(population.removed, _boldest(~breaks))
    for method, chosen in places.items():
        broken = sum(place is not None and bool(breaks[place]) for place in chosen)
        yield {
            "method": method, "test": comparison.test, "draws": draws, "broken": broken,
            **dict(zip(("share", "low", "high"), (broken / draws, *clopper_pearson(broken, draws)), strict=True)),
            "removed": float(np.mean([_removed(population.removed, place) for place in chosen])),
            "removed_at_best": best, "dense": sum(place is None for place in chosen) / draws,
        }  # fmt: skip


def clopper_pearson(count: int, of: int, level: float = 0.05) -> tuple[float, float]:
    """The exact 95 % interval of a chance, of which `count` of `of` were seen (Clopper and Pearson 1934)."""
    low = beta.ppf(level / 2, count, of - count + 1) if count else 0.0
    high = beta.ppf(1 - level / 2, count + 1, of - count) if count < of else 1.0
    return float(low), float(high)


def verdict(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Sum up the table in lines: how often either method broke the promise, at most and overall, and heads removed."""
    for method in ("certified", "naive"):
        mine = [row for row in rows if row["method"] == method]
        worst = max(mine, key=lambda row: row["share"])
        broken, draws = sum(row["broken"] for row in mine), sum(row["draws"] for row in mine)
        above = [row for row in mine if row["low"] > RISK]
        ours, best = (np.mean([row[name] for row in mine]) for name in ("removed", "removed_at_best"))
        yield (
            f"{method}: broken in {broken} of {draws} draws; at worst {100 * worst['share']:.1f} % "
            f"[{100 * worst['low']:.1f}, {100 * worst['high']:.1f}] ({_where(worst)}); significantly above "
            f"{100 * RISK:g} % in {len(above)} of {len(mine)} rows; {100 * ours:.0f} % of heads removed, of "
            f"{100 * best:.0f} % that could be"
        )


def _certified(comparison: Comparison, dense: Floats, steps: Floats, at_most: float) -> int | None:
    """The step that `mha.certify` would choose by these examples; None for the dense model."""
    found = verdicts(comparison, dense, iter(steps), count=len(steps), at_most=at_most, risk=RISK, testing="sequence")
    return last_shown(found)


def _boldest(within: NDArray[np.bool_]) -> int | None:
    """The last step that is within what is allowed; None where none is."""
    places = np.flatnonzero(within)
    return int(places[-1]) if len(places) else None


def _removed(removed: Floats, place: int | None) -> float:
    """The share of the heads that a step removes; none where it is the dense model."""
    return 0.0 if place is None else float(removed[place])


def _line(row: dict[str, Any]) -> str:
    share = f"{100 * row['share']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    heads = f"{100 * row['removed']:.0f} of {100 * row['removed_at_best']:.0f} % of heads removed"
    return f"{_where(row)}, {row['method']} ({row['test']}): broken {share}, {heads}, dense {100 * row['dense']:.0f} %"


def _where(row: dict[str, Any]) -> str:
    hardest = ", the hardest" if row["hardest"] else ""
    return f"{row['task']} {row['arm']}, {100 * row['at_most']:.2f} points{hardest}, {row['examples']} examples"


if __name__ == "__main__":
    main()
