"""The tables of a run, assembled from its cases; docs/importance.md says what stands in them."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from bench.importance.curves import area_frame, curve_frame, curves
from bench.importance.findings import finding_frame
from bench.importance.results import BEST, Array, Results, Subsets, mask_of
from bench.importance.variants import CROSSED, FLOOR
from mha.values.atomic_files import appears_whole

TRUTH = "held out"  # leave-one-out on held-out data, as if it were a criterion
TIE = 1e-5  # losses as near as that are the same
OVERLAP = (0.25, 0.5, 0.75)  # of the heads pruned


def write_tables(directory: Path, records: Mapping[str, Any]) -> None:
    """Write every table of a run as a CSV file into its directory; one of which nothing is known yet has no rows.

    `records` maps case ids to records, as `bench.importance.records.read` returns them.
    """
    results = Results(records)
    drawn = curves(results)
    frames = {
        "scores": scores(results),
        "agreement": agreement(results),
        "curves": curve_frame(results, drawn),
        "areas": area_frame(results, drawn),
        "exhaustive": exhaustive(results),
        "planted": planted(results),
        "stability": stability(results),
        "cost": cost(results),
        "findings": finding_frame(results, drawn),
    }
    for name, frame in frames.items():
        with appears_whole(directory / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g")


def scores(results: Results) -> pd.DataFrame:
    """The table of scores: a row for each subject, training seed, criterion and head; random scores are left out.

    TRUTH, leave-one-out on held-out data, counts as a criterion.
    """
    rows = []
    for subject in results.subjects:
        heads = results.about(subject)["heads"]
        for seed in results.seeds(subject):
            flat_scores = {TRUTH: results.increases(subject, seed)}
            flat_scores |= {label: results.scored(subject, seed, label)["scores"] for label in results.labels(subject)}
            for label, row in flat_scores.items():
                rows += [
                    (subject, seed, label, layer, head, score) for (layer, head), score in zip(heads, row, strict=True)
                ]
    return pd.DataFrame(rows, columns=["task", "seed", "criterion", "layer", "head", "score"])


def agreement(results: Results) -> pd.DataFrame:
    """The table of agreement: a row for each trained task, training seed and ordered pair of criteria.

    It has how alike both rank the heads of all layers (Spearman, Kendall) and those of one (`within`: Spearman, the
    mean over layers), and which share of the heads pruned by one the other prunes too. One of the criteria is TRUTH,
    leave-one-out on held-out data. Its row beside itself compares the scores of the two halves of that data: more
    agreement with it can't be expected of any criterion. So does that of CROSSED where it was scored on those halves.
    """
    rows = []
    for subject in results.of_section("exhaustive", "held_out"):
        for seed in results.seeds(subject):
            flat = {
                label: np.array(results.scored(subject, seed, label)["scores"]) for label in results.labels(subject)
            }
            plans = {label: results.scored(subject, seed, label)["plans"] for label in flat}
            truth = results.increases(subject, seed)
            flat[TRUTH], plans[TRUTH] = truth, _plans(truth, [int(kept) for kept in next(iter(plans.values()), ())])
            halves = [np.array(half["scores"]) for half in results.truth(subject, seed)["halves"]]
            itself = {TRUTH, CROSSED} if "crossed" in results.truth(subject, seed) else {TRUTH}
            itself = itself if len(halves) == 2 else set()
            layers = np.array([layer for layer, _ in results.about(subject)["heads"]])
            for first_label in flat:
                for second_label in flat:
                    first, second = flat[first_label], flat[second_label]
                    if {first_label, second_label} <= itself and TRUTH in (first_label, second_label):
                        first, second = halves
                    row = {"task": subject, "seed": seed, "criterion": first_label, "other": second_label}
                    row |= dict(zip(("spearman", "kendall"), correlations(first, second), strict=True))
                    row["within"] = within_layers(first, second, layers)
                    row |= _overlaps(plans[first_label], plans[second_label], len(truth))
                    rows.append(row)
    columns = ["task", "seed", "criterion", "other", "spearman", "kendall", "within"]
    return pd.DataFrame(rows, columns=[*columns, *(f"overlap_{x:g}" for x in OVERLAP)])


def correlations(first: Array, second: Array) -> tuple[float, float]:
    """The rank correlations (Spearman's, Kendall's) of two arrays of scores (h,); NaN if one is constant, or h is 1."""
    if len(first) < 2:
        return float("nan"), float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(stats.spearmanr(first, second).statistic), float(stats.kendalltau(first, second).statistic)


def within_layers(first: Array, second: Array, layers: NDArray[np.str_]) -> float:
    """Spearman's correlation of two arrays of scores (h,) within a layer, the mean over layers; NaN if there is none.

    `layers` (h,) names each head's layer. Layers in which either array is constant, or of one head, are left out.
    """
    found = [correlations(first[layers == layer], second[layers == layer])[0] for layer in np.unique(layers)]
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _plans(flat: Array, counts: Sequence[int]) -> dict[str, list[int]]:
    """Head count -> positions of the heads with the highest scores, for each of `counts`; `flat` has all scores."""
    ranked = np.argsort(-flat, kind="stable")
    return {str(kept): ranked[:kept].tolist() for kept in counts}


def _overlaps(first: Mapping[str, list[int]], second: Mapping[str, list[int]], total: int) -> dict[str, float]:
    """The share of the heads pruned by one plan that the other prunes too: "overlap_<share>" for each of OVERLAP.

    Compared are the plans of the head count at which the share of pruned heads is nearest to that of OVERLAP; where
    nothing is scored yet there are none, and the shares are NaN.

    Args:
        first, second: head count -> positions of the heads kept.
        total: how many heads the model has.
    """
    shares = {}
    for share in OVERLAP:
        inner = [kept for kept in map(int, first) if 0 < kept < total]
        if not inner:
            shares[f"overlap_{share:g}"] = float("nan")
            continue
        kept = str(min(inner, key=lambda kept: abs(total - kept - share * total)))
        gone = [set(range(total)) - set(plan[kept]) for plan in (first, second)]
        shares[f"overlap_{share:g}"] = len(gone[0] & gone[1]) / len(gone[0])
    return shares


def exhaustive(results: Results) -> pd.DataFrame:
    """The table that compares the subset which a criterion keeps with all subsets of as many heads.

    It has a row for each subject whose every subset is evaluated, training seed, criterion, draw and head count. `draw`
    is 0 for scores from the calibration set itself, and the number of a resample of it from 1 on. FLOOR, the mean over
    all subsets of a size, and BEST count as criteria.
    """
    rows = []
    for subject in results.of_section("exhaustive", "planted"):
        for seed in results.seeds(subject):
            table = results.subsets(subject, seed)
            if table is None:
                continue
            sized = [table.of_size(kept) for kept in range(len(results.about(subject)["heads"]) + 1)]
            for label, draw, plans in _all_plans(results, subject, seed):
                for kept, masks in enumerate(sized):
                    row = {"task": subject, "seed": seed, "criterion": label, "draw": draw}
                    rows.append(row | _standing(table, masks, mask_of(plans[str(kept)]), kept))
            for kept, masks in enumerate(sized):
                standings = [_standing(table, masks, int(mask), kept) for mask in masks]
                mean = {name: float(np.mean([standing[name] for standing in standings])) for name in standings[0]}
                rows.append({"task": subject, "seed": seed, "criterion": FLOOR, "draw": 0, **mean, "heads_kept": kept})
                rows.append({"task": subject, "seed": seed, "criterion": BEST, "draw": 0, **standings[0]})
    columns = [
        "task", "seed", "criterion", "draw", "heads_kept", "loss", "value", "regret", "regret_value", "rank", "of",
        "overlap",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _all_plans(results: Results, subject: str, seed: int) -> list[tuple[str, int, Mapping[str, list[int]]]]:
    """All plans of a subject and training seed, without random ones: a list of (criterion, draw, plans), sorted.

    `draw` is 0 for the calibration set itself, and the number of a resample from 1 on; `plans` maps head counts to
    positions of the heads kept.
    """
    plans = [(label, 0, results.scored(subject, seed, label)["plans"]) for label in results.labels(subject)]
    for label, record in results.details(subject, seed, "resamples"):
        plans += [(label, draw, resample["plans"]) for draw, resample in enumerate(record["draws"], start=1)]
    return sorted(plans, key=lambda row: row[:2])


def _standing(table: Subsets, masks: Any, mask: int, kept: int) -> dict[str, float]:
    """The columns of `exhaustive` that compare the subset `mask` with all subsets of `kept` heads.

    `regret` and `regret_value` are how much worse loss and metric are than the best subset's; `rank` is 1 plus the
    number of the `of` subsets that have a smaller loss; `overlap` is the share of kept heads that the best subset keeps
    too.

    Args:
        masks: the numbers of all subsets of that size, the one with the smallest loss first.
    """
    loss, best = table.losses[mask], table.losses[masks[0]]
    shared = (mask & int(masks[0])).bit_count()
    return {
        "heads_kept": kept,
        "loss": loss,
        "value": table.metric[mask],
        "regret": loss - best,
        "regret_value": table.metric[masks[0]] - table.metric[mask],
        "rank": 1 + int((table.losses[masks] < loss - TIE).sum()),
        "of": len(masks),
        "overlap": shared / kept if kept else 1.0,
    }


def planted(results: Results) -> pd.DataFrame:
    """The table of planted scenarios: a row for each scenario, seed and criterion, FLOOR (random plans) among them.

    `right`: the share of head counts, without none and all, at which the criterion keeps as many of the planted heads
    as a best subset of that size. `regret`: the mean over these head counts of the loss above that of the best subset.
    """
    rows = []
    for subject in results.of_section("planted"):
        heads = len(results.about(subject)["heads"])
        plant = mask_of(results.about(subject)["planted"])
        for seed in results.seeds(subject):
            table = results.subsets(subject, seed)
            if table is None:
                continue
            counts = range(1, heads)
            sized = {kept: table.of_size(kept) for kept in counts}
            right = {kept: planted_in_best(table, sized[kept], plant) for kept in counts}
            for label in results.labels(subject):
                masks = {kept: mask_of(results.scored(subject, seed, label)["plans"][str(kept)]) for kept in counts}
                hits = [(masks[kept] & plant).bit_count() in right[kept] for kept in counts]
                regret = [table.losses[masks[kept]] - table.losses[sized[kept][0]] for kept in counts]
                rows.append((subject, seed, label, np.mean(hits), np.mean(regret)))
            chance = [np.mean([(int(m) & plant).bit_count() in right[kept] for m in sized[kept]]) for kept in counts]
            regret = [(table.losses[sized[kept]] - table.losses[sized[kept][0]]).mean() for kept in counts]
            rows.append((subject, seed, FLOOR, np.mean(chance), np.mean(regret)))
    return pd.DataFrame(rows, columns=["task", "seed", "criterion", "right", "regret"])


def planted_in_best(table: Subsets, masks: Any, plant: int) -> set[int]:
    """How many heads of the mask `plant` the best of the subsets `masks` keeps, as a set: subsets may be equally good.

    `masks` are sorted by loss, the smallest first; subsets within TIE of it are equally good.
    """
    best = table.losses[masks] <= table.losses[masks[0]] + TIE
    return {(int(mask) & plant).bit_count() for mask in masks[best]}


def stability(results: Results) -> pd.DataFrame:
    """The table of stability: a row for each trained task, training seed, criterion, number of examples and part.

    A part is so many examples of the calibration set. `spearman` is the rank correlation of the scores from it with
    those from the whole set, `between` the mean of those between each two parts of that size (NaN if there is only
    one).
    """
    rows = []
    for subject in results.of_section("exhaustive", "held_out"):
        for seed in results.seeds(subject):
            for label, record in results.details(subject, seed, "stability"):
                if label not in results.labels(subject):
                    continue
                whole = np.array(results.scored(subject, seed, label)["scores"])
                for examples, parts in record["sizes"].items():
                    to_whole = [correlations(np.array(part), whole)[0] for part in parts]
                    pairs = [
                        correlations(np.array(first), np.array(second))[0]
                        for number, first in enumerate(parts)
                        for second in parts[:number]
                    ]
                    between = float(np.mean(pairs)) if pairs else np.nan
                    rows += [(subject, seed, label, int(examples), part, x, between) for part, x in enumerate(to_whole)]
    columns = ["task", "seed", "criterion", "examples", "part", "spearman", "between"]
    return pd.DataFrame(rows, columns=columns)


def cost(results: Results) -> pd.DataFrame:
    """The table of costs: a row for each trained task and criterion, with means over training seeds.

    It has how often the model ran `forward` and `backward` over a batch, the CPU `seconds` on one thread, and
    `readings`: these runs in forward passes over the whole calibration set, a backward pass counted as two.
    """
    rows = []
    for subject in results.of_section("exhaustive", "held_out"):
        passes = results.about(subject)["passes"]
        for label in results.labels(subject):
            spent = [results.scored(subject, seed, label)["spent"] for seed in results.seeds(subject)]
            if all(spent):
                forward, backward, seconds = np.mean(spent, axis=0)
                rows.append((subject, label, forward, backward, (forward + 2 * backward) / passes, seconds))
    return pd.DataFrame(rows, columns=["task", "criterion", "forward", "backward", "readings", "seconds"])
