"""Two published findings, tried again and reported whichever way they come out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.importance.curves import DENSE, Curves, interval, replicates
from bench.importance.records import unpack
from bench.importance.results import Array, Results
from bench.importance.variants import FLOOR

SENSITIVE = "cross-attention is the most sensitive kind (Voita et al. 2019)"
UNNOTICED = "a share of heads goes unnoticed (Michel et al. 2019)"
COLUMNS = ["finding", "task", "criterion", "what", "kept_fraction", "value", "low", "high", "holds"]
Row = dict[str, Any]


def finding_frame(results: Results, all_curves: Sequence[Curves]) -> pd.DataFrame:
    """The table of both findings, with the columns COLUMNS: the rows of `unnoticed` and of `sensitive` for every task.

    Values are means over training seeds, with 95 % intervals over held-out examples.
    """
    rows = [row for curve in all_curves for row in unnoticed(curve)]
    for subject in results.of_section("held_out"):
        rows += sensitive(results, subject)
    return pd.DataFrame(rows, columns=COLUMNS)


def unnoticed(curve: Curves) -> list[Row]:
    """A row for each criterion: the largest share of heads that it can prune without a sure fall of the metric.

    At that share, and at every smaller one, the 95 % interval of the fall begins at 0 or below. `kept_fraction` is the
    share that stays, `value` the fall of the metric there, and `holds` whether any head can be pruned so. DENSE and
    FLOOR are left out.
    """
    rows = []
    for label, values in curve.values.items():
        if label in (DENSE, FLOOR):
            continue
        lost = [dense - mine for mine, dense in zip(values, curve.values[DENSE], strict=True)]
        samples = replicates(lost, over_seeds=False)
        means = np.mean([fall.mean(axis=0) for fall in lost], axis=0)
        best = len(curve.counts) - 1
        while best > 0 and interval(samples[:, best - 1])[0] <= 0:
            best -= 1
        low, high = interval(samples[:, best])
        kept = curve.fractions[best]
        rows.append(_row(UNNOTICED, curve.subject, label, "loss at this share", kept, means[best], low, high, kept < 1))
    return rows


def sensitive(results: Results, subject: str) -> list[Row]:
    """Rows: how far the metric falls when one kind of attention alone is pruned, and how much further for "cross".

    There is a row for each criterion, share of the kind's heads kept, and kind; and one for each kind that "cross" is
    compared with, in which `holds` is "yes" if the 95 % interval of the difference is above 0, "no" if it is below,
    else "undecided".
    """
    losses = _losses(results, subject)
    rows = []
    for label, kept in dict.fromkeys((label, kept) for label, kept, _ in losses):
        kinds = {kind: seeds for (name, left, kind), seeds in losses.items() if (name, left) == (label, kept)}
        for kind, seeds in kinds.items():
            low, high = interval(replicates(seeds, over_seeds=False)[:, 0])
            value = float(np.mean([lost.mean() for lost in seeds]))
            rows.append(_row(SENSITIVE, subject, label, f"loss without {kind}", kept, value, low, high, None))
        for kind in kinds.keys() - {"cross"} if "cross" in kinds else ():
            more = [cross - other for cross, other in zip(kinds["cross"], kinds[kind], strict=True)]
            low, high = interval(replicates(more, over_seeds=False)[:, 0])
            value = float(np.mean([lost.mean() for lost in more]))
            verdict = "yes" if low > 0 else "no" if high < 0 else "undecided"
            rows.append(_row(SENSITIVE, subject, label, f"cross more than {kind}", kept, value, low, high, verdict))
    return sorted(rows, key=lambda row: (row["criterion"], -row["kept_fraction"], row["what"]))


def _losses(results: Results, subject: str) -> dict[tuple[str, float, str], list[Array]]:
    """How far each example's value falls: (criterion, share of the kind's heads kept, kind) -> (n, 1) for each seed.

    The criterion is "all of them" where none of the kind's heads is kept. Entries that lack a training seed are left
    out.
    """
    losses: dict[tuple[str, float, str], list[Array]] = {}
    for seed in results.seeds(subject):
        truth = results.truth(subject, seed)
        dense = unpack(truth["ends"][str(len(truth["heads"]))]["values"])
        sources = {"all of them": [truth]} | {
            label: [results.scored(subject, seed, label)] for label in results.labels(subject)
        }
        sources[FLOOR] = [record for record in results.draws(subject, seed) if "kinds" in record]
        for label, records in sources.items():
            for kind, kept in _points(records):
                values = [unpack(record["kinds"][kind][kept]["values"]) for record in records]
                fraction = int(kept) / truth["kind_heads"][kind]
                losses.setdefault((label, fraction, kind), []).append((dense - np.mean(values, axis=0))[:, None])
    whole = len(results.seeds(subject))
    return {key: lost for key, lost in losses.items() if len(lost) == whole}


def _points(records: Sequence[Any]) -> list[tuple[str, str]]:
    """Pairs (kind of attention, heads kept of it) at which models were evaluated for these records.

    The records are of cases "truth" or "scores", and have the same pairs; there are none where `records` is empty.
    """
    if not records:
        return []
    return [(kind, kept) for kind, points in records[0].get("kinds", {}).items() for kept in points]


def _row(
    finding: str, task: str, label: str, what: str, kept: float, value: float, low: float, high: float, holds: Any
) -> Row:
    return dict(zip(COLUMNS, (finding, task, label, what, kept, value, low, high, holds), strict=True))
