"""The metric at each head count, the area beneath it, and their intervals.

Areas are means of the metric over the kept fraction, from no head to all of them. They are made comparable between
tasks as a share: 0 is what random plans keep on average, 1 a model that loses nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.integrate import trapezoid

from bench.importance.records import unpack
from bench.importance.results import BEST, RIVAL, Array, Results, mask_of
from bench.importance.variants import FLOOR

RESAMPLES = 2000
DENSE = "dense"
ALL = "all"


@dataclass(frozen=True)
class Curves:
    """What the metric of one task is at each head count, by each criterion.

    Attributes:
        subject: the name of the task.
        counts: head counts, from none to all.
        values: criterion -> one array (n, counts) for each training seed: each held-out example's value at each head
            count. References such as DENSE count as criteria.
        losses: criterion -> (counts,), the held-out loss, a mean over training seeds.
        draws: head count -> the metric under each random plan of each training seed; of a task whose every subset of
            heads is evaluated, under each subset of that size.
    """

    subject: str
    counts: tuple[int, ...]
    values: dict[str, list[Array]]
    losses: dict[str, Array]
    draws: dict[int, Array]

    @property
    def fractions(self) -> Array:
        """The share of all heads that is kept at each head count, (counts,)."""
        return np.array(self.counts) / self.counts[-1]


def curves(results: Results) -> list[Curves]:
    """The curves of every trained task, without those for which `curves_of` finds too few finished cases."""
    drawn = [curves_of(results, subject) for subject in results.of_section("exhaustive", "held_out")]
    return [curve for curve in drawn if curve is not None]


def curves_of(results: Results, subject: str) -> Curves | None:
    """The curves of one task (`subject`); None where too few of its cases are finished.

    Either every subset of its heads must have been evaluated for each training seed; or, for a task of section
    "held_out", at least one criterion must have scored its heads for each training seed.
    """
    seeds = results.seeds(subject)
    exhaustive = [results.subsets(subject, seed) for seed in seeds]
    if all(subsets is not None for subsets in exhaustive):
        return _looked_up(results, subject, seeds)
    if results.about(subject)["section"] == "held_out" and results.labels(subject):
        return _measured(results, subject, seeds)
    return None


def _looked_up(results: Results, subject: str, seeds: Sequence[int]) -> Curves:
    """The curves of a task of which every subset of heads is evaluated: each plan's results are looked up there.

    Beside the criteria they include BEST, DENSE and, as a mean over all subsets of a size, FLOOR.
    """
    total = len(results.about(subject)["heads"])
    counts = tuple(range(total + 1))
    masks: dict[str, list[list[int]]] = {}
    for label in results.labels(subject):
        plans = [results.scored(subject, seed, label)["plans"] for seed in seeds]
        masks[label] = [[mask_of(plan[str(kept)]) for kept in counts] for plan in plans]
    every = [results.subsets(subject, seed) for seed in seeds]
    tables = [table for table in every if table is not None]
    masks[BEST] = [[int(table.of_size(kept)[0]) for kept in counts] for table in tables]
    masks[DENSE] = [[2**total - 1] * len(counts) for _ in tables]
    values = {
        label: [table.values[chosen].T.astype(float) for table, chosen in zip(tables, rows, strict=True)]
        for label, rows in masks.items()
    }
    losses = {
        label: np.mean([table.losses[chosen] for table, chosen in zip(tables, rows, strict=True)], axis=0)
        for label, rows in masks.items()
    }
    sized = [[table.of_size(kept) for kept in counts] for table in tables]
    values[FLOOR] = [
        np.stack([table.values[masks].mean(axis=0) for masks in rows], axis=1)
        for table, rows in zip(tables, sized, strict=True)
    ]
    losses[FLOOR] = np.mean(
        [[table.losses[masks].mean() for masks in rows] for table, rows in zip(tables, sized, strict=True)], axis=0
    )
    draws = {
        kept: np.concatenate([table.metric[rows[kept]] for table, rows in zip(tables, sized, strict=True)])
        for kept in counts
    }
    return Curves(subject, counts, values, losses, draws)


def _measured(results: Results, subject: str, seeds: Sequence[int]) -> Curves:
    """The curves of a task with many heads, from the plans by which its model was pruned and evaluated.

    Beside the criteria they include DENSE and, if there are random plans for each training seed, FLOOR, their mean.
    """
    plans = results.scored(subject, seeds[0], results.labels(subject)[0])["plans"]
    counts = tuple(sorted(map(int, plans)))
    values, losses = {}, {}
    for label in results.labels(subject):
        by_seed = [_points(results, subject, seed, results.scored(subject, seed, label), counts) for seed in seeds]
        values[label] = [points for points, _ in by_seed]
        losses[label] = np.mean([loss for _, loss in by_seed], axis=0)
    ends = [results.truth(subject, seed)["ends"][str(counts[-1])] for seed in seeds]
    values[DENSE] = [np.repeat(unpack(end["values"])[:, None], len(counts), axis=1) for end in ends]
    losses[DENSE] = np.full(len(counts), np.mean([end["loss"] for end in ends]))
    random = [
        [_points(results, subject, seed, draw, counts) for draw in results.draws(subject, seed)] for seed in seeds
    ]
    draws = {}
    if all(random):
        values[FLOOR] = [np.mean([points for points, _ in drawn], axis=0) for drawn in random]
        losses[FLOOR] = np.mean([loss for drawn in random for _, loss in drawn], axis=0)
        metric = np.array([points.mean(axis=0) for drawn in random for points, _ in drawn])
        draws = {kept: metric[:, column] for column, kept in enumerate(counts)}
    return Curves(subject, counts, values, losses, draws)


def _points(results: Results, subject: str, seed: int, record: Any, counts: Sequence[int]) -> tuple[Array, Array]:
    """Each held-out example's value (n, counts) and the loss (counts,) at these head counts, by one criterion or draw.

    `record` is that of a case "scores"; for no head and for all heads, the case "truth" has the values.
    """
    curve = results.truth(subject, seed)["ends"] | record["curve"]
    points = [curve[str(kept)] for kept in counts]
    return np.stack([unpack(point["values"]) for point in points], axis=1), np.array([p["loss"] for p in points])


def replicates(values: Sequence[Array], *, over_seeds: bool = True) -> Array:
    """Bootstrap replicates (RESAMPLES, columns) of the means over examples and training seeds, both drawn anew.

    Every call draws the same examples and seeds, so that differences between replicates are paired.

    Args:
        values: an array (n examples, columns) for each training seed.
        over_seeds: whether seeds are drawn too; else each replicate is a mean over all of them.
    """
    by_seed = np.stack([_resampled(rows, seed) for seed, rows in enumerate(values)])  # (seeds, resamples, columns)
    if not over_seeds:
        return np.asarray(by_seed.mean(axis=0))
    chosen = np.random.default_rng(0).integers(len(values), size=(len(values), RESAMPLES))
    return np.asarray(np.mean([by_seed[row, np.arange(RESAMPLES)] for row in chosen], axis=0))


def _resampled(rows: Array, seed: int) -> Array:
    """Means (RESAMPLES, columns), each over n of the `rows` (n, columns), drawn with replacement as `seed` says."""
    count = len(rows)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.asarray(weights @ rows / count)


def interval(samples: Array) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the samples; both are NaN if any sample is."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def over_seeds(means: Array) -> tuple[float, float]:
    """The 95 % interval, by Student's t, of the mean of `means`, one for each training seed; NaN for a single seed."""
    if len(means) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(means) - 1) * np.std(means, ddof=1) / np.sqrt(len(means))
    return float(np.mean(means) - half), float(np.mean(means) + half)


def curve_frame(results: Results, all_curves: Sequence[Curves]) -> pd.DataFrame:
    """The table of the curves: a row for each task, criterion and head count.

    A row has the metric with its intervals, the held-out loss, and the metric's difference to the dense model's. BEST
    and FLOOR count as criteria, and so do smaller models trained from scratch (RIVAL), whose rows lack the difference;
    DENSE has no rows. `metric` says what the values are.
    """
    rows: list[dict[str, Any]] = []
    for curve in all_curves:
        for label in curve.values:
            if label != DENSE:
                rows += _curve(curve, label)
        rows += _rivals(results, curve.subject, curve.counts[-1])
    return pd.DataFrame([row | {"metric": results.about(row["task"])["metric"]} for row in rows])


def _curve(curve: Curves, label: str) -> list[dict[str, Any]]:
    """The rows of `curve_frame` for the criterion of this label, one for each head count."""
    values, dense = curve.values[label], curve.values[DENSE]
    lost = [mine - its for mine, its in zip(values, dense, strict=True)]
    lost_examples = replicates(lost, over_seeds=False)
    both, examples = replicates(values), replicates(values, over_seeds=False)
    rows = []
    for column, kept in enumerate(curve.counts):
        means = np.array([seed[:, column].mean() for seed in values])
        row = _row(curve.subject, label, kept, curve.counts[-1], means, both[:, column], examples[:, column])
        row |= {"loss": curve.losses[label][column], "difference": np.mean([seed[:, column].mean() for seed in lost])}
        row |= _bounds("difference", interval(lost_examples[:, column]))
        row |= _bounds("draws", interval(curve.draws[kept]) if label == FLOOR else (np.nan, np.nan))
        rows.append(row)
    return rows


def _rivals(results: Results, subject: str, total: int) -> list[dict[str, Any]]:
    """The rows of `curve_frame` for smaller dense models trained from scratch; the task's model has `total` heads."""
    by_heads: dict[int, list[Any]] = {}
    for seed in results.seeds(subject):
        for _, record in results.details(subject, seed, "rival"):
            by_heads.setdefault(record["heads_kept"], []).append(record)
    rows = []
    for kept, records in sorted(by_heads.items()):
        values = [unpack(record["values"])[:, None] for record in records]
        means = np.array([value.mean() for value in values])
        both, examples = replicates(values)[:, 0], replicates(values, over_seeds=False)[:, 0]
        loss = float(np.mean([record["loss"] for record in records]))
        rows.append({**_row(subject, RIVAL, kept, total, means, both, examples), "loss": loss})
    return rows


def _row(subject: str, label: str, kept: int, total: int, means: Array, both: Array, examples: Array) -> dict[str, Any]:
    """A row of `curve_frame`, with 95 % intervals over seeds and examples, examples alone, and seeds alone.

    Args:
        label: of the criterion.
        kept, total: how many heads are kept, and how many the task's model has.
        means: the metric for each training seed.
        both, examples: its bootstrap replicates over seeds and examples, and over examples alone.
    """
    return {
        "task": subject,
        "criterion": label,
        "heads_kept": kept,
        "heads_total": total,
        "kept_fraction": kept / total,
        "value": means.mean(),
        **_bounds("", interval(both)),
        **_bounds("examples", interval(examples)),
        **_bounds("seeds", over_seeds(means)),
        "seeds": len(means),
    }


def _bounds(name: str, bounds: tuple[float, float]) -> dict[str, float]:
    """The ends of an interval as two columns, `<name>_low` and `<name>_high`, or `low` and `high` if the name is ""."""
    start = f"{name}_" if name else ""
    return {f"{start}low": bounds[0], f"{start}high": bounds[1]}


def areas(curve: Curves) -> dict[str, list[Array]]:
    """The area under each example's curve over the kept fraction: criterion -> an array (n,) for each training seed."""
    return {
        label: [trapezoid(seed, curve.fractions, axis=1) for seed in values] for label, values in curve.values.items()
    }


def area_frame(results: Results, all_curves: Sequence[Curves]) -> pd.DataFrame:
    """The table of the areas: a row for each task and criterion, with the area under the curve and its intervals.

    Where random plans were evaluated, a row has the area also as a share (0: random plans, 1: the dense model). The
    rows of task ALL have only the mean of the shares over the tasks, for criteria that have one on each task.
    """
    rows: list[dict[str, Any]] = []
    shares: dict[str, list[tuple[float, Array]]] = {}
    for curve in all_curves:
        by_label = areas(curve)
        resampled = {label: _replicates(mine, over_seeds=True) for label, mine in by_label.items()}
        means = {label: np.array([area.mean() for area in mine]) for label, mine in by_label.items()}
        for label, mine in by_label.items():
            row = {"task": curve.subject, "criterion": label, "area": means[label].mean(), "seeds": len(means[label])}
            row |= _bounds("area", interval(resampled[label]))
            row |= _bounds("examples", interval(_replicates(mine, over_seeds=False)))
            row |= _bounds("seeds", over_seeds(means[label]))
            row |= _bounds("calibration", _calibration(results, curve, label))
            if FLOOR in by_label:
                share = float(_share(*(means[name].mean() for name in (label, FLOOR, DENSE))))
                samples = _share(*(resampled[name] for name in (label, FLOOR, DENSE)))
                row |= {"share": share, **_bounds("share", interval(samples))}
                shares.setdefault(label, []).append((share, samples))
            rows.append(row)
    for label, several in shares.items():
        if len(several) == len(all_curves):
            mean = float(np.mean([share for share, _ in several]))
            bounds = interval(np.mean([samples for _, samples in several], axis=0))
            rows.append({"task": ALL, "criterion": label, "share": mean, **_bounds("share", bounds)})
    return pd.DataFrame(rows)


def _share(area: Any, random: Any, dense: Any) -> Any:
    """An area as a share: 0 for that of random plans, 1 for that of the dense model; NaN where these are equal.

    All three are numbers, or arrays of the same shape.
    """
    span = np.where(dense == random, np.nan, dense - random)
    return (area - random) / span


def _replicates(areas: Sequence[Array], *, over_seeds: bool) -> Array:
    """Bootstrap replicates (RESAMPLES,) of the mean area, as by `replicates`; `areas` has (n,) for each seed."""
    return replicates([area[:, None] for area in areas], over_seeds=over_seeds)[:, 0]


def _calibration(results: Results, curve: Curves, label: str) -> tuple[float, float]:
    """The smallest and the largest area that the criterion reaches with the calibration set and with resamples of it.

    Each area is a mean over training seeds. Both are NaN where, for any seed, not every subset of heads is evaluated,
    or nothing was scored on resamples.
    """
    seed_areas = []
    for seed in results.seeds(curve.subject):
        table = results.subsets(curve.subject, seed)
        record = dict(results.details(curve.subject, seed, "resamples", label)).get(label)
        if table is None or record is None:
            return float("nan"), float("nan")
        plans = [draw["plans"] for draw in (results.scored(curve.subject, seed, label), *record["draws"])]
        metric = [[table.metric[mask_of(plan[str(kept)])] for kept in curve.counts] for plan in plans]
        seed_areas.append(trapezoid(metric, curve.fractions, axis=1))
    draws = np.mean(seed_areas, axis=0)
    return float(draws.min()), float(draws.max())
